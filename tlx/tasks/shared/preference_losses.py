"""Losses of preferred answers, each a formula of summed log-probabilities.

    s(y) = log pi(y | x) - log ref(y | x)      l(y) = log pi(y | x) / tokens of y
    h = s(y_w) - s(y_l)                        ls = log sigma

with the policy pi, the frozen reference ref, the chosen answer w and the rejected one l. Sums are over the tokens
of an answer, its end included, in float32: an answer of 1,000 tokens sums to about -1,000, and beta h needs a
hundredth.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from tlx.base.errors import ConfigError, one_of


@dataclasses.dataclass(frozen=True)
class LossSettings:
    """The loss of preferences and its coefficients."""

    loss: str = "dpo"
    """One of LOSSES: dpo, robust, ipo, ipo_sum, hinge, orpo, simpo, or kto of unpaired answers."""
    beta: float = 0.1
    """Strength of the reference, above 0; orpo's weight of the odds ratio, simpo's scale of rewards (2.0)."""
    label_smoothing: float = 0.0
    """Probability that chosen and rejected are exchanged, in [0, 0.5): of dpo (conservative DPO) and robust."""
    simpo_gamma: float = 0.5
    """Margin of simpo."""
    liked_weight: float = 1.0
    """kto's weight of liked answers."""
    disliked_weight: float = 1.0
    """kto's weight of the other answers."""
    sft_weight: float = 0.0
    """Coefficient of the cross-entropy of chosen (or liked) answers, at least 0; orpo has its own."""

    def validate(self) -> None:
        """Raise ConfigError naming the field, its value and what is legal."""
        if self.loss not in LOSSES:
            raise ConfigError(one_of("objective.loss", self.loss, LOSSES))
        if not self.beta > 0:
            raise ConfigError(f"objective.beta = {self.beta} must be above 0")
        if not 0 <= self.label_smoothing < 0.5:
            raise ConfigError(f"objective.label_smoothing = {self.label_smoothing} must be in [0, 0.5)")
        if self.label_smoothing and self.loss not in ("dpo", "robust"):
            raise ConfigError(
                f"objective.label_smoothing = {self.label_smoothing} is for objective.loss = 'dpo' or 'robust', "
                f"not {self.loss!r}"
            )
        for name in ("liked_weight", "disliked_weight", "sft_weight"):
            if getattr(self, name) < 0:
                raise ConfigError(f"objective.{name} = {getattr(self, name)} must not be negative")


class PairLogProbs(NamedTuple):
    """Log-probabilities of pairs of answers, float32 [...] each."""

    chosen: jax.Array
    """log pi(y_w | x)."""
    rejected: jax.Array
    """log pi(y_l | x)."""
    reference_chosen: jax.Array
    """log ref(y_w | x); 0 where a loss has no reference."""
    reference_rejected: jax.Array
    """log ref(y_l | x)."""
    chosen_tokens: jax.Array
    """Tokens of y_w, 1 at least."""
    rejected_tokens: jax.Array
    """Tokens of y_l, 1 at least."""

    @property
    def chosen_ratio(self) -> jax.Array:
        """s(y_w)."""
        return self.chosen - self.reference_chosen

    @property
    def rejected_ratio(self) -> jax.Array:
        """s(y_l)."""
        return self.rejected - self.reference_rejected

    @property
    def chosen_mean(self) -> jax.Array:
        """l(y_w)."""
        return self.chosen / self.chosen_tokens

    @property
    def rejected_mean(self) -> jax.Array:
        """l(y_l)."""
        return self.rejected / self.rejected_tokens


Formula = Callable[[PairLogProbs, LossSettings], jax.Array]


class PreferenceLoss(NamedTuple):
    """An entry of LOSSES."""

    formula: Formula | None
    """The loss of each pair; None for kto, whose loss is of single answers."""
    rewards: Literal["ratio", "mean"]
    """The implicit reward of an answer: beta s(y), or beta l(y) where there is no reference."""
    source: str
    """Paper and equation."""

    @property
    def has_reference(self) -> bool:
        """Whether the loss compares the policy with a reference."""
        return self.rewards == "ratio"


def _scaled_difference(pair: PairLogProbs, settings: LossSettings) -> jax.Array:
    return settings.beta * (pair.chosen_ratio - pair.rejected_ratio)


def dpo(pair: PairLogProbs, settings: LossSettings) -> jax.Array:
    """Return -(1 - e) ls(beta h) - e ls(-beta h), e the label smoothing."""
    scaled = _scaled_difference(pair, settings)
    noise = settings.label_smoothing
    return (1 - noise) * jax.nn.softplus(-scaled) + noise * jax.nn.softplus(scaled)


def robust(pair: PairLogProbs, settings: LossSettings) -> jax.Array:
    """Return (-(1 - e) ls(beta h) + e ls(-beta h)) / (1 - 2 e): unbiased where labels are wrong with e."""
    scaled = _scaled_difference(pair, settings)
    noise = settings.label_smoothing
    return ((1 - noise) * jax.nn.softplus(-scaled) - noise * jax.nn.softplus(scaled)) / (1 - 2 * noise)


def ipo(pair: PairLogProbs, settings: LossSettings) -> jax.Array:
    """Return (h' - 1 / (2 beta))^2, h' the difference of s(y) / tokens: the form that its authors use."""
    difference = pair.chosen_ratio / pair.chosen_tokens - pair.rejected_ratio / pair.rejected_tokens
    return jnp.square(difference - 1 / (2 * settings.beta))


def ipo_sum(pair: PairLogProbs, settings: LossSettings) -> jax.Array:
    """Return (h - 1 / (2 beta))^2: the paper's equation."""
    return jnp.square(pair.chosen_ratio - pair.rejected_ratio - 1 / (2 * settings.beta))


def hinge(pair: PairLogProbs, settings: LossSettings) -> jax.Array:
    """Return max(0, 1 - beta h)."""
    return jax.nn.relu(1 - _scaled_difference(pair, settings))


def simpo(pair: PairLogProbs, settings: LossSettings) -> jax.Array:
    """Return -ls(beta (l(y_w) - l(y_l)) - gamma)."""
    scaled = settings.beta * (pair.chosen_mean - pair.rejected_mean)
    return jax.nn.softplus(settings.simpo_gamma - scaled)


def odds_ratio(pair: PairLogProbs) -> jax.Array:
    """Return -ls(lo(y_w) - lo(y_l)), lo = l - log(1 - e^l) the log-odds of an answer."""
    return jax.nn.softplus(_log_odds(pair.rejected_mean) - _log_odds(pair.chosen_mean))


def orpo(pair: PairLogProbs, settings: LossSettings) -> jax.Array:
    """Return -l(y_w) + beta odds_ratio; the cross-entropy is of the answer, not of the prompt."""
    return -pair.chosen_mean + settings.beta * odds_ratio(pair)


def _log_odds(mean: jax.Array) -> jax.Array:
    # The floor keeps an answer of probability 1 from log 0, and its gradient from 1 / 0.
    mean = jnp.minimum(mean, -1e-6)
    return mean - jnp.log(-jnp.expm1(mean))


def kto(
    ratio: jax.Array, mismatched: jax.Array, liked: jax.Array, weights: jax.Array, settings: LossSettings
) -> tuple[jax.Array, jax.Array]:
    """Compute KTO's loss of single answers (Ethayarajh et al. 2024, eq. 7).

    w_d (1 - sigma(beta (s - z))) for liked answers, w_u (1 - sigma(beta (z - s))) for others, where z is
    max(0, mean of s) over answers to other prompts: an estimate of KL(pi || ref) without a gradient.

    Args:
        ratio: s(y) of each answer.
        mismatched: s(y') of the answer to another prompt.
        liked: Whether each answer was liked.
        weights: 0 for answers that only fill a batch.
        settings: beta and the two weights.

    Returns:
        The loss of each answer, and z [].
    """
    divergence = jnp.sum(mismatched * weights) / jnp.maximum(jnp.sum(weights), 1e-9)
    divergence = jax.lax.stop_gradient(jnp.maximum(divergence, 0.0))
    scaled = settings.beta * (ratio - divergence)
    # 1 - sigma(x) = sigma(-x).
    losses = jnp.where(
        liked,
        settings.liked_weight * jax.nn.sigmoid(-scaled),
        settings.disliked_weight * jax.nn.sigmoid(scaled),
    )
    return losses, divergence


LOSSES: Mapping[str, PreferenceLoss] = {
    "dpo": PreferenceLoss(dpo, "ratio", "Rafailov et al. 2023, eq. 7; smoothed: Mitchell 2023"),
    "robust": PreferenceLoss(robust, "ratio", "Chowdhury et al. 2024"),
    "ipo": PreferenceLoss(ipo, "ratio", "Azar et al. 2023, eq. 17, averaged over tokens"),
    "ipo_sum": PreferenceLoss(ipo_sum, "ratio", "Azar et al. 2023, eq. 17"),
    "hinge": PreferenceLoss(hinge, "ratio", "Zhao et al. 2023 (SLiC)"),
    "orpo": PreferenceLoss(orpo, "mean", "Hong et al. 2024, eqs. 2, 4 and 7"),
    "simpo": PreferenceLoss(simpo, "mean", "Meng et al. 2024"),
    "kto": PreferenceLoss(None, "ratio", "Ethayarajh et al. 2024"),
}
"""Losses by name."""
