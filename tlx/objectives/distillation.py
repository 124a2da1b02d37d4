"""Knowledge distillation as DistilBERT's: the teacher's distribution, the text itself, and its hidden states.

Sanh et al. 2019 and huggingface/transformers research_projects/distillation (distiller.py, train.py): with
teacher p and student q at temperature T, over all tokens of a row, cls and sep too,

    soft_weight T^2 mean KL(p_T || q_T)  +  loss_weight MLM  +  cosine_weight mean (1 - cos(h, h'))

h and h' being the last layers' outputs; `masked_only` takes the first mean over masked tokens alone (the
script's restrict_ce_to_mask). The weights are 5, 2 and 1. Masks are those of mlm.py, drawn anew each time as
the paper says; the official script draws rare tokens more often, by the counts of its own data.

DistilBERT begins as layers 0, 2, 4, 7, 9, 11 of its 12-layer teacher (extract_distilbert.py): `init_layers`.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from typing_extensions import override

from tlx.base.errors import ConfigError
from tlx.base.term import Term, Terms
from tlx.nn.losses import cross_entropy, soft_cross_entropy
from tlx.objectives.mlm import MLMObjective
from tlx.objectives.shared.base import Batch, Predictions, at_positions, full_unembedding
from tlx.objectives.shared.masking import Masking
from tlx.objectives.shared.teacher import StudentModule, TeacherConfig


@dataclasses.dataclass(frozen=True)
class Distillation(TeacherConfig, Masking):
    """A teacher, what is learned from it, and what is masked (see Masking)."""

    name: str = "distillation"
    """Name in the table of objectives."""
    temperature: float = 2.0
    """Temperature T of both distributions, above 0."""
    soft_weight: float = 5.0
    """Weight of the teacher's distribution in the loss, times T^2."""
    loss_weight: float = 2.0
    """Weight of the masked tokens in the loss."""
    cosine_weight: float = 1.0
    """Weight of the hidden states' cosine distance in the loss; 0 leaves it out."""
    masked_only: bool = False
    """Whether the teacher's distribution is learned at masked tokens alone."""

    def validate(self) -> None:
        """Raise ConfigError as Masking does, and for a temperature not above 0 or a negative weight."""
        super().validate()
        if not self.temperature > 0:
            raise ConfigError(f"objective.temperature = {self.temperature} must be above 0")
        for name in ("soft_weight", "loss_weight", "cosine_weight"):
            if getattr(self, name) < 0:
                raise ConfigError(f"objective.{name} = {getattr(self, name)} must not be negative")


class DistillationModule(StudentModule):
    """The student; the teacher's parameters are "teacher"."""

    @override
    def __call__(self, batch: Batch, carry: None = None, keys: jax.Array | None = None) -> tuple[Terms, None]:
        """Return "loss" and "accuracy" of the masked tokens, "soft_loss" and "cosine_loss"."""
        config = self.config
        cosine_weight = config.cosine_weight
        teacher = self.teacher_params()
        hidden_BTD, student = self.everywhere(batch, keys)
        masked = at_targets(student, batch)
        terms = cross_entropy(*masked, batch["targets"], batch["weights"], self.loss)
        terms = {
            name: term._replace(loss_weight=term.loss_weight * config.loss_weight)
            for name, term in terms.items()
        }
        if teacher is None:
            return terms, None
        outputs: Any = self.teacher().apply({"params": teacher}, batch, None, method="everywhere")
        known_BTD, known = outputs
        real = (batch["segments"] > 0).astype(jnp.float32)
        weights = real
        if config.masked_only:
            student = masked
            known = at_targets(known, batch)
            weights = batch["weights"]
        soft = soft_cross_entropy(
            student.hidden,
            full_unembedding(student.unembedding),
            known.hidden,
            full_unembedding(known.unembedding),
            weights,
            config.temperature,
            self.loss,
        )
        terms["soft_loss"] = soft._replace(loss_weight=config.soft_weight * config.temperature**2)
        if cosine_weight and known_BTD.shape != hidden_BTD.shape:
            raise ConfigError(
                f"objective.cosine_weight = {cosine_weight} compares hidden states: model.width = "
                f"{self.model.width} must be the teacher's {known_BTD.shape[-1]}, or the weight 0"
            )
        if cosine_weight:
            distances = 1 - cosine_similarity(hidden_BTD, jax.lax.stop_gradient(known_BTD))
            terms["cosine_loss"] = Term(jnp.sum(distances * real), jnp.sum(real), cosine_weight)
        return terms, None


def at_targets(predictions: Predictions, batch: Batch) -> Predictions:
    """Return the predictions at `target_positions`, [B, P, D]."""
    return predictions._replace(hidden=at_positions(predictions.hidden, batch["target_positions"]))


def cosine_similarity(x_BTD: jax.Array, y_BTD: jax.Array) -> jax.Array:
    """Return the cosines of the angles between vectors, float32 [B, T]."""
    x_BTD = x_BTD.astype(jnp.float32)
    y_BTD = y_BTD.astype(jnp.float32)
    squares = jnp.sum(x_BTD * x_BTD, axis=-1) * jnp.sum(y_BTD * y_BTD, axis=-1)
    # The constant keeps the gradient finite at padding, where vectors may be 0.
    return jnp.sum(x_BTD * y_BTD, axis=-1) * jax.lax.rsqrt(squares + 1e-12)


class DistillationObjective(MLMObjective):
    """DistilBERT's knowledge distillation, on rows of masked language modelling."""

    config_class = Distillation
    module = DistillationModule


OBJECTIVE = DistillationObjective()
