"""REINFORCE with a leave-one-out baseline (Ahmadian et al. 2024): the mean reward of the other answers to a prompt.

An answer is one action: its reward is r - beta (log pi_old - log ref), its probability that of all its tokens, the
loss max(-A rho, -A clip(rho, 1 - clip, 1 + clip_high)) with rho = pi / pi_old of the whole answer.

K is the number of answers to a prompt.

Shapes: A positions of an answer.
"""

import dataclasses

import jax
import jax.numpy as jnp
from typing_extensions import override

from tlx.base.term import Term, Terms
from tlx.rollouts.base import RolloutConfig, RolloutModule, RolloutTask
from tlx.rollouts.clipped import clipped_policy_losses
from tlx.rollouts.kl import k1
from tlx.tasks.shared.base import Batch


def leave_one_out_advantages(rewards_BK: jax.Array) -> jax.Array:
    """Compute r_i minus the mean of the other rewards of its group, K > 1 (their eq. 9)."""
    rewards_BK = rewards_BK.astype(jnp.float32)
    count = rewards_BK.shape[1]
    others_BK = (jnp.sum(rewards_BK, axis=1, keepdims=True) - rewards_BK) / (count - 1)
    return rewards_BK - others_BK


def answer_kl(batch: Batch) -> jax.Array:
    """Sum log pi_old - log ref over the tokens of each answer, float32 [B, K]."""
    ratios_BKA = k1(batch["old_log_probs"] - batch["reference_log_probs"])
    return jnp.sum(ratios_BKA * batch["weights"], axis=-1)


@dataclasses.dataclass(frozen=True)
class RLOO(RolloutConfig):
    """RLOO has no choices of its own; TRL's beta is 0.05."""

    name: str = "rloo"
    """Name in the table of tasks."""


class RLOOModule(RolloutModule):
    """The loss of RLOO."""

    @override
    def answer_terms(self, log_ratio_BKA: jax.Array, log_probs_BKA: jax.Array, batch: Batch) -> Terms:
        """Return "loss", "clip_fraction" and, with a reference, "kl" in nats an answer, averaged over answers."""
        del log_probs_BKA
        config = self.config
        log_ratio_BK = jnp.sum(log_ratio_BKA, axis=-1)
        losses_BK, clipped_BK = clipped_policy_losses(
            batch["advantages"], log_ratio_BK, config.clip, config.clip_high
        )
        count = jnp.float32(losses_BK.size)
        terms = {
            "loss": Term(jnp.sum(losses_BK), count, 1.0),
            "clip_fraction": Term(jnp.sum(clipped_BK), count),
        }
        if config.beta:
            terms["kl"] = Term(jnp.sum(answer_kl(batch)), count)
        return terms


class RLOOTask(RolloutTask):
    """Answers that are compared with the mean of the others to their prompt."""

    config_class = RLOO
    module = RLOOModule

    @override
    def advantages(self, config: RLOO, batch: Batch) -> jax.Array:
        """Compute the advantages of rewards from which the divergence is subtracted."""
        rewards_BK = batch["reward"]
        if config.beta:
            rewards_BK = rewards_BK - config.beta * answer_kl(batch)
        return leave_one_out_advantages(rewards_BK)


TASK = RLOOTask()
