"""Knowledge distillation as DistilBERT's: the teacher's distribution, the text itself, and its hidden states.

Sanh et al. 2019 and huggingface/transformers research_projects/distillation (distiller.py, train.py): with
teacher p and student q at temperature T, over all tokens of a row, cls and sep too,

    soft_weight T^2 mean KL(p_T || q_T)  +  loss_weight MLM  +  cosine_weight mean (1 - cos(h, h'))

h and h' being the last layers' outputs; `masked_only` takes the first mean over masked places alone (the
script's restrict_ce_to_mask). The weights are 5, 2 and 1. Masks are those of mlm.py, drawn anew each time as
the paper says; the official script draws rare tokens more often, by the counts of its own data.

DistilBERT begins as layers 0, 2, 4, 7, 9, 11 of its 12-layer teacher (extract_distilbert.py): `init_layers`.
"""

import dataclasses

import jax
import jax.numpy as jnp

from tlx.base.errors import ConfigError
from tlx.base.term import Term, Terms
from tlx.nn.losses import cross_entropy, soft_cross_entropy
from tlx.objectives import mlm
from tlx.objectives.shared.base import Batch, Objective, Predictions
from tlx.objectives.shared.masking import Masking
from tlx.objectives.shared.teacher import StudentModule, TeacherConfig


@dataclasses.dataclass(frozen=True)
class Distillation(TeacherConfig, Masking):
    """A teacher, what is learned from it, and what is masked (see Masking)."""

    name: str = "distillation"
    temperature: float = 2.0
    soft_weight: float = 5.0
    loss_weight: float = 2.0
    cosine_weight: float = 1.0
    masked_only: bool = False

    def validate(self) -> None:
        """As Masking's; ConfigError for a temperature that is not above 0 or a negative weight too."""
        super().validate()
        if not self.temperature > 0:
            raise ConfigError(f"objective.temperature = {self.temperature} must be above 0")
        for name in ("soft_weight", "loss_weight", "cosine_weight"):
            if getattr(self, name) < 0:
                raise ConfigError(f"objective.{name} = {getattr(self, name)} must not be negative")


class DistillationModule(StudentModule):
    """The student; the teacher's parameters are "teacher"."""

    def __call__(self, batch: Batch, carry: None = None, keys: jax.Array | None = None) -> tuple[Terms, None]:
        """ "loss" and "accuracy" of the masked tokens, "soft_loss" and "cosine_loss"."""
        config, teacher, cosine = self.config, self.teacher_params(), self.config.cosine_weight
        hidden_BTD, ours = self.everywhere(batch, keys)
        masked = at_targets(ours, batch)
        terms = cross_entropy(*masked, batch["targets"], batch["weights"], self.loss)
        terms = {
            name: term._replace(loss_weight=term.loss_weight * config.loss_weight)
            for name, term in terms.items()
        }
        if teacher is None:
            return terms, None
        known_BTD, theirs = self.teacher().apply({"params": teacher}, batch, None, method="everywhere")
        weights = real = (batch["segments"] > 0).astype(jnp.float32)
        if config.masked_only:
            ours, theirs, weights = masked, at_targets(theirs, batch), batch["weights"]
        soft = soft_cross_entropy(*ours, *theirs, weights, config.temperature, self.loss)
        terms["soft_loss"] = soft._replace(loss_weight=config.soft_weight * config.temperature**2)
        if cosine and known_BTD.shape != hidden_BTD.shape:
            raise ConfigError(
                f"objective.cosine_weight = {cosine} compares hidden states: model.width = "
                f"{self.model.width} must be the teacher's {known_BTD.shape[-1]}, or the weight 0"
            )
        if cosine:
            distances = 1 - similarity(hidden_BTD, jax.lax.stop_gradient(known_BTD))
            terms["cosine_loss"] = Term(jnp.sum(distances * real), jnp.sum(real), cosine)
        return terms, None


def at_targets(predictions: Predictions, batch: Batch) -> Predictions:
    """Those of the places `target_positions`, [B, P, D]."""
    places_BP1 = batch["target_positions"][..., None]
    return predictions._replace(hidden=jnp.take_along_axis(predictions.hidden, places_BP1, axis=1))


def similarity(x_BTD: jax.Array, y_BTD: jax.Array) -> jax.Array:
    """Cosines of the angles between the vectors, float32[B, T]."""
    x, y = x_BTD.astype(jnp.float32), y_BTD.astype(jnp.float32)
    squares = jnp.sum(x * x, axis=-1) * jnp.sum(y * y, axis=-1)
    return jnp.sum(x * y, axis=-1) * jax.lax.rsqrt(squares + 1e-12)


OBJECTIVE = Objective(Distillation, mlm.reads, mlm.example, DistillationModule, kinds=("encoder",))
