"""Online preference optimisation: the policy's own answers are ordered by their rewards, and the loss is DPO's.

Guo et al. 2024 (online DPO): of the K answers sampled to a prompt, the one with the largest reward is the chosen one
and the one with the least the rejected one; a prompt whose answers have equal rewards teaches nothing. The loss is a
formula of tasks/shared/preference_losses.py that compares the policy with a frozen reference (dpo, robust, ipo,
ipo_sum, hinge), averaged over the pairs.

K is the number of answers to a prompt.

Shapes: A positions of an answer.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from typing_extensions import override

from tlx.base.errors import ConfigError, one_of
from tlx.base.term import Term, Terms
from tlx.rollouts.base import RolloutConfig, RolloutModule, RolloutTask
from tlx.tasks.shared.base import Batch
from tlx.tasks.shared.preference_losses import LOSSES, LossSettings, PairLogProbs

_LOSSES = tuple(name for name, loss in LOSSES.items() if loss.has_reference and loss.formula is not None)


@dataclasses.dataclass(frozen=True)
class OnlineDPO(RolloutConfig):
    """The loss of pairs of sampled answers."""

    name: str = "online_dpo"
    """Name in the table of tasks."""
    num_answers: int = 2
    """Answers sampled for each prompt, 2 or more; the best and the worst are compared."""
    beta: float = 0.1
    """Strength of the reference, above 0."""
    loss: str = "dpo"
    """Formula of a pair: dpo, robust, ipo, ipo_sum or hinge."""
    label_smoothing: float = 0.0
    """Probability that the rewards order a pair wrongly, in [0, 0.5): of dpo (conservative DPO) and robust."""

    @property
    def settings(self) -> LossSettings:
        """Coefficients of the formula."""
        return LossSettings(loss=self.loss, beta=self.beta, label_smoothing=self.label_smoothing)

    def validate(self) -> None:
        """Raise ConfigError naming the field, its value and what is legal."""
        super().validate()
        if self.loss not in _LOSSES:
            raise ConfigError(one_of("objective.loss", self.loss, _LOSSES))
        self.settings.validate()


def best_against_worst(rewards_BK: jax.Array) -> jax.Array:
    """Return 1 for the best answer to each prompt, -1 for the worst, else 0; all 0 where rewards are equal.

    Of equal ones the first is taken.
    """
    count = rewards_BK.shape[1]
    is_best_BK = jnp.arange(count) == jnp.argmax(rewards_BK, axis=1)[:, None]
    is_worst_BK = jnp.arange(count) == jnp.argmin(rewards_BK, axis=1)[:, None]
    return is_best_BK.astype(jnp.float32) - is_worst_BK.astype(jnp.float32)


class OnlineDPOModule(RolloutModule):
    """The loss of online DPO."""

    @override
    def answer_terms(self, log_ratio_BKA: jax.Array, log_probs_BKA: jax.Array, batch: Batch) -> Terms:
        """Return "loss", "accuracy", "margin" and "kl", means over pairs; "kl" over answers, in nats."""
        del log_ratio_BKA
        config = self.config
        sign_BK = batch["advantages"]
        weights_BKA = batch["weights"]
        chosen_BK = (sign_BK > 0).astype(jnp.float32)
        rejected_BK = (sign_BK < 0).astype(jnp.float32)

        def of(mask_BK: jax.Array, values_BKA: jax.Array) -> jax.Array:
            return jnp.sum(jnp.sum(values_BKA * weights_BKA, axis=-1) * mask_BK, axis=-1)

        ones_BKA = jnp.ones_like(weights_BKA)
        pair = PairLogProbs(
            chosen=of(chosen_BK, log_probs_BKA),
            rejected=of(rejected_BK, log_probs_BKA),
            reference_chosen=of(chosen_BK, batch["reference_log_probs"]),
            reference_rejected=of(rejected_BK, batch["reference_log_probs"]),
            chosen_tokens=jnp.maximum(of(chosen_BK, ones_BKA), 1),
            rejected_tokens=jnp.maximum(of(rejected_BK, ones_BKA), 1),
        )
        formula = LOSSES[config.loss].formula
        assert formula is not None  # validate() has it
        is_pair_B = jnp.sum(chosen_BK, axis=1)
        count = jnp.sum(is_pair_B)
        margin_B = config.beta * (pair.chosen_ratio - pair.rejected_ratio)
        kl_BKA = (log_probs_BKA - batch["reference_log_probs"]) * weights_BKA
        return {
            "loss": Term(jnp.sum(formula(pair, config.settings) * is_pair_B), count, 1.0),
            "accuracy": Term(jnp.sum((margin_B > 0) * is_pair_B), count),
            "margin": Term(jnp.sum(jax.lax.stop_gradient(margin_B) * is_pair_B), count),
            "kl": Term(jax.lax.stop_gradient(jnp.sum(kl_BKA)), jnp.float32(sign_BK.size)),
        }


class OnlineDPOTask(RolloutTask):
    """Answers of which the best is preferred to the worst."""

    config_class = OnlineDPO
    module = OnlineDPOModule

    @override
    def advantages(self, config: Any, batch: Batch) -> jax.Array:
        """Order the answers to each prompt: 1 is chosen, -1 rejected."""
        del config
        return best_against_worst(batch["reward"])


TASK = OnlineDPOTask()
