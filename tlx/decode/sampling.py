"""Choice of the next token from logits: greedy, repetition penalty, temperature, top-k, top-p, min-p, with a
random key per row."""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from tlx.base.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. The default draws from the model's own distribution."""

    temperature: float = 1.0  # 0: greedy
    top_k: int = 0  # only the k likeliest tokens; 0: all
    top_p: float = 1.0  # only the fewest tokens that together reach this probability (nucleus)
    min_p: float = 0.0  # only tokens at least this times as likely as the likeliest (Nguyen et al. 2024)
    repetition_penalty: float = 1.0  # what stands in the text already: logits over it, or times it below 0

    def validate(self) -> None:
        """Raises ConfigError for a value that cannot be used."""
        if not 0 <= self.temperature < math.inf:
            raise ConfigError(f"temperature = {self.temperature!r} must be 0 (greedy) or a positive number")
        if self.top_k < 0 or self.top_k != int(self.top_k):
            raise ConfigError(f"top_k = {self.top_k!r} must be a whole number of tokens, or 0 for all")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p = {self.top_p!r} must be in (0, 1]")
        if not 0 <= self.min_p <= 1:
            raise ConfigError(f"min_p = {self.min_p!r} must be in [0, 1]")
        if not 0 < self.repetition_penalty < math.inf:
            raise ConfigError(f"repetition_penalty = {self.repetition_penalty!r} must be above 0; 1 is none")

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.temperature == 0

    @property
    def truncated(self) -> bool:
        """Whether some tokens are ruled out, which needs a sort of the vocabulary."""
        return not self.greedy and (self.top_k > 0 or self.top_p < 1 or self.min_p > 0)

    @property
    def penalised(self) -> bool:
        """Whether what a text holds already matters."""
        return self.repetition_penalty != 1


class SamplingArrays(NamedTuple):
    """The numbers of a Sampling as arrays, so that new values do not compile a new program."""

    temperature: jax.Array
    top_k: jax.Array
    top_p: jax.Array
    min_p: jax.Array
    repetition_penalty: jax.Array


def sampling_arrays(sampling: Sampling) -> SamplingArrays:
    """Scalars of `sampling`."""
    return SamplingArrays(
        jnp.float32(sampling.temperature),
        jnp.int32(sampling.top_k),
        jnp.float32(sampling.top_p),
        jnp.float32(sampling.min_p),
        jnp.float32(sampling.repetition_penalty),
    )


def penalised(logits_BV: jax.Array, seen_BV: jax.Array, penalty: jax.Array) -> jax.Array:
    """Logits with those of seen tokens over the penalty, or times it where negative (Keskar et al. 2019, as
    transformers reads it)."""
    logits_BV = logits_BV.astype(jnp.float32)
    lower_BV = jnp.where(logits_BV < 0, logits_BV * penalty, logits_BV / penalty)
    return jnp.where(seen_BV, lower_BV, logits_BV)


def sample(
    logits_BV: jax.Array, keys_B: jax.Array, values: SamplingArrays, greedy: bool, truncated: bool
) -> jax.Array:
    """Next token of each row, int32 [B]; row b depends on its own logits and its own key alone.

    Order of operations: logits / temperature, then top-k, then top-p on what is left, then min-p (as
    transformers does). `greedy` and `truncated` are those of the Sampling.
    """
    if greedy:
        return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
    logits_BV = logits_BV.astype(jnp.float32) / values.temperature
    draw = jax.vmap(jax.random.categorical)
    if not truncated:
        return draw(keys_B, logits_BV).astype(jnp.int32)
    order_BV = jnp.argsort(logits_BV, axis=-1, descending=True)
    sorted_BV = jnp.take_along_axis(logits_BV, order_BV, axis=-1)
    kept_BV = truncate(sorted_BV, values.top_k, values.top_p, values.min_p)
    rank_B = draw(keys_B, kept_BV)
    return jnp.take_along_axis(order_BV, rank_B[:, None], axis=-1)[:, 0].astype(jnp.int32)


def truncate(sorted_BV: jax.Array, top_k: jax.Array, top_p: jax.Array, min_p: jax.Array) -> jax.Array:
    """Logits sorted downwards with -inf in place of those outside the top k, then outside the top p, then of
    less than min_p times the first one's probability.

    The likeliest token always stays, and so does the one that crosses `top_p`.
    """
    rank_V = jnp.arange(sorted_BV.shape[-1])
    sorted_BV = jnp.where((top_k == 0) | (rank_V < top_k), sorted_BV, -jnp.inf)
    probs_BV = jax.nn.softmax(sorted_BV, axis=-1)
    before_BV = jnp.cumsum(probs_BV, axis=-1) - probs_BV
    sorted_BV = jnp.where((before_BV < top_p) | (rank_V == 0) | (top_p >= 1), sorted_BV, -jnp.inf)
    return jnp.where(sorted_BV >= sorted_BV[..., :1] + jnp.log(min_p), sorted_BV, -jnp.inf)
