"""Group relative policy optimisation: the other answers to a prompt take the place of a value network.

DeepSeekMath (Shao et al. 2024, eqs. 3 and 4): the mean over answers of the mean over their tokens of

    max(-A rho, -A clip(rho, 1 - clip, 1 + clip_high)) + beta k3

with A the reward of the answer relative to its group, rho = pi / pi_old and k3 the divergence from the reference.
Its relatives are choices of the config:

    DAPO (Yu et al. 2025)         average = "token", clip_high = 0.28
    Dr. GRPO (Liu et al. 2025)    average = "constant", scale = "none"
    GSPO (Zheng et al. 2025)      importance = "sequence", clip = 3e-4, clip_high = 4e-4

K is the number of answers to a prompt.

Shapes: A positions of an answer, Q rows of a batch, B K of them.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from typing_extensions import override

from tlx.base.term import Term, Terms
from tlx.rollouts.base import RolloutConfig, RolloutModule, RolloutTask
from tlx.rollouts.clipped import clipped_policy_losses
from tlx.rollouts.kl import k3
from tlx.tasks.shared.base import Batch

_EPS = 1e-4  # added to the standard deviation, as in TRL

Scale = Literal["group", "batch", "none"]
"""Divisor of the advantages: the standard deviation of the rewards of the group, or of the batch, or nothing
(Dr. GRPO, Liu et al. 2025: division weighs easy and hard prompts more)."""

Average = Literal["answer", "token", "constant"]
"""Units of the mean of token losses."""


def group_advantages(rewards_BK: jax.Array, scale: Scale = "group") -> jax.Array:
    """Compute (r - mean of the group) / (std + 1e-4), with the unbiased standard deviation.

    Args:
        rewards_BK: Rewards of the global batch.
        scale: What is divided by.

    Returns:
        float32 [B, K]; 0 for groups whose rewards are all equal.
    """
    rewards_BK = rewards_BK.astype(jnp.float32)
    centred_BK = rewards_BK - jnp.mean(rewards_BK, axis=1, keepdims=True)
    if scale == "none":
        return centred_BK
    dim = 1 if scale == "group" else None
    return centred_BK / (jnp.std(rewards_BK, axis=dim, ddof=1, keepdims=True) + _EPS)


def sequence_log_ratios(log_ratio_BT: jax.Array, mask_BT: jax.Array) -> jax.Array:
    """Average log-ratios over the tokens of an answer, for GSPO (Zheng et al. 2025, eq. 7).

    Args:
        log_ratio_BT: log pi - log pi_old of each token.
        mask_BT: 1 for tokens of the answer.

    Returns:
        [B], 0 for an answer without tokens.
    """
    sums_B = jnp.sum(jnp.where(mask_BT > 0, log_ratio_BT, 0.0), axis=1)
    return sums_B / jnp.maximum(jnp.sum(mask_BT > 0, axis=1), 1)


def average_over(
    values_BKA: jax.Array, weights_BKA: jax.Array, average: Average
) -> tuple[jax.Array, jax.Array]:
    """Sum values over the tokens of answers, and the weight that the sum is divided by.

    Args:
        values_BKA: Values of tokens.
        weights_BKA: 1 for tokens of answers.
        average: What is averaged over.

    Returns:
        (sum, weight), the weight a function of the weights alone.
    """
    sums_BK = jnp.sum(values_BKA * weights_BKA, axis=-1)
    tokens_BK = jnp.sum(weights_BKA, axis=-1)
    if average == "token":
        return jnp.sum(sums_BK), jnp.sum(tokens_BK)
    if average == "constant":
        return jnp.sum(sums_BK), jnp.float32(weights_BKA.size)
    return jnp.sum(sums_BK / jnp.maximum(tokens_BK, 1)), jnp.float32(sums_BK.size)


@dataclasses.dataclass(frozen=True)
class GRPO(RolloutConfig):
    """Choices of the loss."""

    name: str = "grpo"
    """Name in the table of tasks."""
    scale: Scale = "group"
    """Divisor of the advantages: "group" or "batch": the standard deviation of its rewards; "none"."""
    average: Average = "answer"
    """Unit of the mean of losses: "answer": the tokens of each answer, then answers; "token": all tokens of the
    update (DAPO); "constant": answers times objective.target_length (Dr. GRPO)."""
    importance: Literal["token", "sequence"] = "token"
    """Ratio of new to old probabilities: "token": each token's; "sequence": an answer's geometric mean (GSPO)."""


class GRPOModule(RolloutModule):
    """The loss of GRPO."""

    @override
    def answer_terms(self, log_ratio_BKA: jax.Array, log_probs_BKA: jax.Array, batch: Batch) -> Terms:
        """Return "loss", "clip_fraction" and, with a reference, "kl", all averaged as the config says."""
        config = self.config
        weights_BKA = batch["weights"]
        if config.importance == "sequence":
            rows_QA = log_ratio_BKA.reshape(-1, log_ratio_BKA.shape[-1])
            means_Q = sequence_log_ratios(rows_QA, weights_BKA.reshape(rows_QA.shape))
            log_ratio_BKA = jnp.broadcast_to(
                means_Q.reshape(*log_ratio_BKA.shape[:2], 1), log_ratio_BKA.shape
            )
        losses_BKA, clipped_BKA = clipped_policy_losses(
            batch["advantages"][..., None], log_ratio_BKA, config.clip, config.clip_high
        )
        terms = {
            "loss": Term(*average_over(losses_BKA, weights_BKA, config.average), 1.0),
            "clip_fraction": Term(*average_over(clipped_BKA, weights_BKA, "token")),
        }
        if config.beta:
            kl_BKA = k3(log_probs_BKA - batch["reference_log_probs"])
            terms["kl"] = Term(*average_over(kl_BKA, weights_BKA, config.average), config.beta)
        return terms


class GRPOTask(RolloutTask):
    """Answers that are compared with the others to their prompt."""

    config_class = GRPO
    module = GRPOModule

    @override
    def advantages(self, config: GRPO, batch: Batch) -> jax.Array:
        """Compute the advantages of the groups."""
        return group_advantages(batch["reward"], config.scale)


TASK = GRPOTask()
