"""Choice of the next token from logits: greedy, temperature, top-k, top-p, with a random key per row."""

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

    def validate(self) -> None:
        """Raises ConfigError for a value that cannot be used."""
        if not 0 <= self.temperature < math.inf:
            raise ConfigError(f"temperature = {self.temperature!r} must be 0 (greedy) or a positive number")
        if self.top_k < 0 or self.top_k != int(self.top_k):
            raise ConfigError(f"top_k = {self.top_k!r} must be a whole number of tokens, or 0 for all")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p = {self.top_p!r} must be in (0, 1]")

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.temperature == 0

    @property
    def truncated(self) -> bool:
        """Whether some tokens are ruled out, which needs a sort of the vocabulary."""
        return not self.greedy and (self.top_k > 0 or self.top_p < 1)


class Knobs(NamedTuple):
    """The numbers of a Sampling as arrays, so that new values do not compile a new program."""

    temperature: jax.Array
    top_k: jax.Array
    top_p: jax.Array


def knobs(sampling: Sampling) -> Knobs:
    """Scalars of `sampling`."""
    return Knobs(jnp.float32(sampling.temperature), jnp.int32(sampling.top_k), jnp.float32(sampling.top_p))


def sample(
    logits_BV: jax.Array, keys_B: jax.Array, values: Knobs, greedy: bool, truncated: bool
) -> jax.Array:
    """Next token of each row, int32 [B]; row b depends on its own logits and its own key alone.

    Order of operations: logits / temperature, then top-k, then top-p on what is left (as transformers
    does). `greedy` and `truncated` are those of the Sampling.
    """
    if greedy:
        return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
    logits_BV = logits_BV.astype(jnp.float32) / values.temperature
    draw = jax.vmap(jax.random.categorical)
    if not truncated:
        return draw(keys_B, logits_BV).astype(jnp.int32)
    order_BV = jnp.argsort(logits_BV, axis=-1, descending=True)
    kept_BV = truncate(jnp.take_along_axis(logits_BV, order_BV, axis=-1), values.top_k, values.top_p)
    rank_B = draw(keys_B, kept_BV)
    return jnp.take_along_axis(order_BV, rank_B[:, None], axis=-1)[:, 0].astype(jnp.int32)


def truncate(sorted_BV: jax.Array, top_k: jax.Array, top_p: jax.Array) -> jax.Array:
    """Logits sorted downwards with -inf in place of those outside the top k, then outside the top p.

    The likeliest token always stays, and so does the one that crosses `top_p`.
    """
    rank_V = jnp.arange(sorted_BV.shape[-1])
    sorted_BV = jnp.where((top_k == 0) | (rank_V < top_k), sorted_BV, -jnp.inf)
    probs_BV = jax.nn.softmax(sorted_BV, axis=-1)
    before_BV = jnp.cumsum(probs_BV, axis=-1) - probs_BV
    return jnp.where((before_BV < top_p) | (rank_V == 0) | (top_p >= 1), sorted_BV, -jnp.inf)
