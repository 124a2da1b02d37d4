"""Generalised knowledge distillation: a student learns its teacher's distribution on its own answers.

Agarwal et al. 2024 (arXiv:2306.13649), eq. 1 and algorithm 1. With the teacher's p and the student's q of a token,
both at `temperature`, and m = b p + (1 - b) q, b the `interpolation`,

    JSD_b(p || q) = b KL(p || m) + (1 - b) KL(q || m)          0 < b < 1
    KL(p || q)  (forward)  where b = 0,     KL(q || p)  (reverse)  where b = 1

which are the limits of JSD_b / (b (1 - b)). The loss is the mean over the tokens of the answers. A share `on_policy`
of the prompts has answers that the student samples in this step, without a gradient through the sampling; the others
have the record's target, as in supervised distillation (on_policy = 0).

The teacher is frozen state with the same tokenizer (training/teacher.py). Rewards are a metric alone.

K is the number of answers to a prompt.

Shapes: A positions of an answer.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from typing_extensions import override

from tlx.base.errors import ConfigError
from tlx.base.term import Term, Terms
from tlx.models.config import ModelConfig
from tlx.nn import embed
from tlx.nn.losses import WHOLE
from tlx.objectives.shared.base import full_unembedding
from tlx.rollouts.base import Learned, RolloutConfig, RolloutModule, RolloutTask, token_prefix
from tlx.rollouts.step import with_answers
from tlx.tasks.shared.base import Batch, TaskSpec
from tlx.tasks.shared.generative import GenerationItem
from tlx.tasks.shared.reference import abstract_reference

_CHUNK = 16  # positions of all answers whose logits are built at once, where all of them would be too many


@dataclasses.dataclass(frozen=True)
class GKD(RolloutConfig):
    """The teacher, the divergence, and whose answers are learned from."""

    name: str = "gkd"
    """Name in the table of tasks."""
    num_answers: int = 1
    """Answers sampled for each prompt, 1 or more."""
    teacher: str = ""
    """Run, checkpoint or Hugging Face directory of the teacher, with the student's tokenizer."""
    teacher_model: ModelConfig | None = None
    """The teacher's model config; read when a run starts, and saved with the run."""
    teacher_hash: str = ""
    """Hash of the teacher's weights; read when a run starts, and saved with the run."""
    interpolation: float = 0.5
    """b of the divergence, from 0 (forward KL, covers the teacher's modes) to 1 (reverse KL, seeks one)."""
    on_policy: float = 1.0
    """Share of prompts whose answers the student samples, from 0 to 1; the others have the record's target."""

    least_answers: ClassVar[int] = 1
    """Fewest answers to a prompt: they are not compared with each other."""

    def validate(self) -> None:
        """Raise ConfigError naming the field, its value and what is legal."""
        super().validate()
        for name in ("interpolation", "on_policy"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"objective.{name} = {getattr(self, name)} must be from 0 to 1")
        if self.beta:
            raise ConfigError(
                f"objective.beta = {self.beta} must be 0: gkd compares the student with its teacher, and with no "
                "reference"
            )


def generalized_jsd(
    student_log_probs: jax.Array, teacher_log_probs: jax.Array, interpolation: float
) -> jax.Array:
    """Compute JSD_b(p || q) over the last dim, in nats.

    Args:
        student_log_probs: log q, [..., V].
        teacher_log_probs: log p, [..., V].
        interpolation: b, from 0 to 1; the ends are the forward and the reverse KL.

    Returns:
        float32 [...].
    """
    log_q = student_log_probs
    log_p = teacher_log_probs
    if interpolation == 0:
        return _kl(log_p, log_q)
    if interpolation == 1:
        return _kl(log_q, log_p)
    log_m = jnp.logaddexp(log_p + np.log(interpolation), log_q + np.log1p(-interpolation))
    return interpolation * _kl(log_p, log_m) + (1 - interpolation) * _kl(log_q, log_m)


def _kl(log_p: jax.Array, log_q: jax.Array) -> jax.Array:
    return jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)


class GKDModule(RolloutModule):
    """The student; the teacher's parameters are "teacher"."""

    @property
    @override
    def scores_samples(self) -> bool:
        """Return False: neither ratios nor references are read."""
        return False

    def teacher_module(self) -> "GKDModule":
        """Return the teacher's module, executed as the student is; ConfigError where it does not fit."""
        config = self.config
        teacher: ModelConfig | None = config.teacher_model
        if teacher is None:
            raise ConfigError(
                f"objective.teacher = {config.teacher!r} must be a run directory or a Hugging Face directory"
            )
        if teacher.kind != self.model.kind or teacher.vocab_size not in (0, self.model.vocab_size):
            raise ConfigError(
                f"objective.teacher = {config.teacher!r} is {teacher.kind} with {teacher.vocab_size} ids, the model "
                f"{self.model.kind} with {self.model.vocab_size}: both read the same rows"
            )
        names = ("execution", "dtype", "vocab_size", "vocab_multiple")
        model = dataclasses.replace(teacher, **{name: getattr(self.model, name) for name in names})
        return GKDModule(config, model, self.loss, parent=None)

    @override
    def frozen(self) -> dict[str, Any]:
        """Return {"teacher": abstract, boxed parameters} beside the base class's."""
        return super().frozen() | {"teacher": abstract_reference(self.teacher_module())}

    @override
    def __call__(self, batch: Batch, carry: None = None, keys: jax.Array | None = None) -> tuple[Terms, None]:
        """Return "loss", "forward_kl" and "entropy", means over the tokens of answers; keys are not used.

        Without the teacher's parameters, as in initialisation, the loss is 0.
        """
        del keys
        hidden_BKAD, unembedding = self.answer_states(batch)
        teacher = None if self.is_initializing() else self.variables["params"].get("teacher")
        weights_BKA = batch["weights"]
        count = jnp.sum(weights_BKA)
        if teacher is None:
            return {"loss": Term(jnp.sum(hidden_BKAD) * 0.0, count, 1.0)}, None
        known: Any = self.teacher_module().apply(
            {"params": jax.lax.stop_gradient(teacher)}, batch, method="answer_states"
        )
        sums = self._divergences(
            hidden_BKAD, full_unembedding(unembedding), known[0], full_unembedding(known[1])
        )
        # What stands behind an answer must not reach a sum, not even as 0 times infinity.
        real_BKA = weights_BKA > 0
        loss, forward_kl, entropy = (jnp.sum(jnp.where(real_BKA, values, 0.0)) for values in sums)
        return {
            "loss": Term(loss, count, 1.0),
            "forward_kl": Term(forward_kl, count),
            "entropy": Term(entropy, count),
        }, None

    def _divergences(
        self, hidden_BKAD: jax.Array, unembedding: Any, known_BKAE: jax.Array, known_unembedding: Any
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Compute the divergence, KL(p || q) and the student's entropy of each token, float32 [B, K, A]."""
        config = self.config
        vocab_size = unembedding.vocab_size

        def log_probs(hidden: jax.Array, output: Any) -> jax.Array:
            return jax.nn.log_softmax(embed.logits(hidden, output)[..., :vocab_size] / config.temperature)

        # Logits are computed again in the backward pass: they are by far the largest arrays.
        @jax.checkpoint
        def of_position(one: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
            log_q = log_probs(one[0], unembedding)
            log_p = jax.lax.stop_gradient(log_probs(one[1], known_unembedding))
            entropy = -jnp.sum(jnp.exp(log_q) * log_q, axis=-1)
            divergence = generalized_jsd(log_q, log_p, config.interpolation)
            return divergence, jax.lax.stop_gradient(_kl(log_p, log_q)), jax.lax.stop_gradient(entropy)

        num_positions = np.prod(hidden_BKAD.shape[:-1])
        if 2 * num_positions * unembedding.num_rows <= WHOLE:
            return of_position((hidden_BKAD, known_BKAE))
        by_position = (jnp.moveaxis(hidden_BKAD, 2, 0), jnp.moveaxis(known_BKAE, 2, 0))
        results = jax.lax.map(of_position, by_position, batch_size=_CHUNK)
        divergence, forward_kl, entropy = (jnp.moveaxis(values, 0, 2) for values in results)
        return divergence, forward_kl, entropy


class GKDTask(RolloutTask):
    """Answers whose tokens a teacher has a distribution for."""

    config_class = GKD
    module = GKDModule

    @override
    def learned(self, config: GKD, batch: Batch, extra: Mapping[str, Any]) -> Learned:
        """Put the records' targets in the place of sampled answers, where a prompt is to have one."""
        del extra
        if config.on_policy == 1:
            return Learned({})
        prefix = token_prefix("encoder_decoder" if "encoder_tokens" in batch else "decoder")
        shape_BK = batch["weights"].shape[:2]
        tokens_BKA = jnp.broadcast_to(batch["target"][:, None], batch["weights"].shape)
        lengths_BK = jnp.broadcast_to(batch["target_tokens"][:, None], shape_BK)
        from_targets = with_answers(batch, tokens_BKA, lengths_BK, prefix)
        names = [prefix + name for name in ("tokens", "segments", "positions")] + ["weights"]
        is_given_B11 = batch["is_given"][:, None, None] > 0
        arrays = {name: jnp.where(is_given_B11, from_targets[name], batch[name]) for name in names}
        return Learned(arrays, {"on_policy": 1 - jnp.mean(batch["is_given"])})

    @override
    def example(
        self, rng: np.random.Generator, item: GenerationItem, spec: TaskSpec
    ) -> dict[str, np.ndarray]:
        """Make the rows of a prompt as the base class does; where targets are learned from, with one of them.

        item: The prompt, with its targets.

        Returns:
            The arrays of a batch without their batch dim.
        """
        arrays = super().example(rng, item, spec)
        if spec.config.on_policy == 1:
            return arrays
        size = spec.config.target_length
        target = np.zeros(0, np.int32)
        if item.targets:
            target = item.targets[int(rng.integers(len(item.targets)))][:size]
        padded = np.full(size, spec.vocab.pad, np.int32)
        padded[: len(target)] = target
        is_given = len(target) > 0 and rng.random() >= spec.config.on_policy
        return arrays | {
            "target": padded,
            "target_tokens": np.asarray(len(target), np.int32),
            "is_given": np.asarray(is_given, np.float32),
        }


TASK = GKDTask()
