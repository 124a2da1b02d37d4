"""Sampling of the next token: greedy, repetition penalty, temperature, top-k, top-p and min-p, a key per row."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from tlx.base.errors import ConfigError, shown

# Divisors of logits: beyond these a float32 quotient is infinite or not a number, and the draw arbitrary.
_SMALLEST = 1e-30
_LARGEST = 1e30


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Parameters of sampling. The default draws from the model's own distribution."""

    temperature: float = 1.0
    """Divisor of the logits; 0: greedy."""
    top_k: int = 0
    """Draw from the k likeliest tokens only; 0: from all."""
    top_p: float = 1.0
    """Draw from the fewest tokens whose probabilities reach this sum (nucleus sampling), in (0, 1]."""
    min_p: float = 0.0
    """Drop tokens whose probability is below min_p times that of the likeliest (Nguyen et al. 2024), 0 to 1."""
    repetition_penalty: float = 1.0
    """Divisor of positive logits, and factor of negative ones, of tokens in the text; 1: none."""

    def validate(self) -> None:
        """Raise ConfigError for a value that cannot be used."""
        if self.temperature != 0 and not _SMALLEST <= self.temperature <= _LARGEST:
            raise ConfigError(
                f"temperature = {shown(self.temperature)} must be 0 (greedy) or from {_SMALLEST} to {_LARGEST}"
            )
        if self.top_k < 0 or self.top_k != int(self.top_k):
            raise ConfigError(f"top_k = {shown(self.top_k)} must be a whole number of tokens, or 0 for all")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p = {shown(self.top_p)} must be in (0, 1]")
        if not 0 <= self.min_p <= 1:
            raise ConfigError(f"min_p = {shown(self.min_p)} must be in [0, 1]")
        if not _SMALLEST <= self.repetition_penalty <= _LARGEST:
            raise ConfigError(
                f"repetition_penalty = {shown(self.repetition_penalty)} must be from {_SMALLEST} to {_LARGEST}; "
                "1 is none"
            )

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.temperature == 0

    @property
    def truncated(self) -> bool:
        """Whether some tokens are ruled out, which requires sorting the vocabulary."""
        return not self.greedy and (self.top_k > 0 or self.top_p < 1 or self.min_p > 0)

    @property
    def penalised(self) -> bool:
        """Whether tokens that the text contains already are penalised."""
        return self.repetition_penalty != 1


class SamplingArrays(NamedTuple):
    """Values of a Sampling as arrays, so that new values do not compile a new program."""

    temperature: jax.Array
    """Divisor of the logits, float32 []."""
    top_k: jax.Array
    """Number of likeliest tokens to draw from, int32 []; 0: all."""
    top_p: jax.Array
    """Probability that the drawn-from tokens reach, float32 []."""
    min_p: jax.Array
    """Smallest probability relative to the likeliest token's, float32 []."""
    repetition_penalty: jax.Array
    """Penalty on tokens of the text, float32 []."""


def sampling_arrays(sampling: Sampling) -> SamplingArrays:
    """Convert a Sampling to scalar arrays."""
    return SamplingArrays(
        jnp.float32(sampling.temperature),
        jnp.int32(sampling.top_k),
        jnp.float32(sampling.top_p),
        jnp.float32(sampling.min_p),
        jnp.float32(sampling.repetition_penalty),
    )


def penalised(logits_BV: jax.Array, seen_BV: jax.Array, penalty: jax.Array) -> jax.Array:
    """Divide positive logits of seen tokens by the penalty, and multiply negative ones by it.

    Keskar et al. 2019, section 4.1, in the form of transformers' RepetitionPenaltyLogitsProcessor.

    Args:
        logits_BV: Logits.
        seen_BV: Whether the text contains a token.
        penalty: The penalty; 1 changes nothing.

    Returns:
        float32 [B, V].
    """
    logits_BV = logits_BV.astype(jnp.float32)
    penalised_BV = jnp.where(logits_BV < 0, logits_BV * penalty, logits_BV / penalty)
    return jnp.where(seen_BV, penalised_BV, logits_BV)


def sample(
    logits_BV: jax.Array, keys_B: jax.Array, values: SamplingArrays, greedy: bool, truncated: bool
) -> jax.Array:
    """Draw the next token of each row; row b depends on its own logits and key only.

    Order of operations: logits / temperature, then top-k, then top-p of the remaining tokens, then min-p (as
    in transformers).

    Args:
        logits_BV: Logits.
        keys_B: Random key of each row.
        values: Temperature and the like.
        greedy: `Sampling.greedy`; static.
        truncated: `Sampling.truncated`; static.

    Returns:
        Token ids, int32 [B].
    """
    if greedy:
        return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
    # float32: small temperatures spread bfloat16 logits to a few distinct values.
    logits_BV = logits_BV.astype(jnp.float32) / values.temperature
    draw = jax.vmap(jax.random.categorical)
    if not truncated:
        return draw(keys_B, logits_BV).astype(jnp.int32)
    # One sort serves top-k, top-p and min-p: in descending order each keeps a prefix.
    order_BV = jnp.argsort(logits_BV, axis=-1, descending=True)
    sorted_BV = jnp.take_along_axis(logits_BV, order_BV, axis=-1)
    truncated_BV = truncate(sorted_BV, values.top_k, values.top_p, values.min_p)
    rank_B = draw(keys_B, truncated_BV)
    return jnp.take_along_axis(order_BV, rank_B[:, None], axis=-1)[:, 0].astype(jnp.int32)


def truncate(sorted_BV: jax.Array, top_k: jax.Array, top_p: jax.Array, min_p: jax.Array) -> jax.Array:
    """Set logits outside the top k, then outside the top p, then below min_p to -inf.

    The likeliest token always stays, and so does the one that crosses `top_p`.

    Args:
        sorted_BV: Logits in descending order.
        top_k: Number of tokens that stay; 0: all.
        top_p: Sum of probabilities that the remaining tokens reach.
        min_p: Smallest probability relative to the first token's.

    Returns:
        [B, V].
    """
    rank_V = jnp.arange(sorted_BV.shape[-1])
    sorted_BV = jnp.where((top_k == 0) | (rank_V < top_k), sorted_BV, -jnp.inf)
    probs_BV = jax.nn.softmax(sorted_BV, axis=-1)
    # The sum before a token, so that the token that crosses top_p stays.
    before_BV = jnp.cumsum(probs_BV, axis=-1) - probs_BV
    sorted_BV = jnp.where((before_BV < top_p) | (rank_V == 0) | (top_p >= 1), sorted_BV, -jnp.inf)
    # In logs, where the softmax's divisor cancels; log 0 = -inf drops nothing.
    return jnp.where(sorted_BV >= sorted_BV[..., :1] + jnp.log(min_p), sorted_BV, -jnp.inf)
