"""A toy objective with all that a step must handle: two terms, a metric, keys, a carry, NaN on demand."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tlx.base.term import Term
from tlx.parallel import logical


class Toy(nn.Module):
    """Predicts targets from tokens and a memory; a token of 99 makes the loss NaN."""

    width: int = 16
    memory: bool = True

    @nn.compact
    def __call__(self, batch, carry=None, keys=None):
        x = jax.nn.one_hot(batch["tokens"], 16)
        kernel = self.param("kernel", logical(nn.initializers.lecun_normal(), ("vocab", "embed")), (16, 16))
        h = x @ kernel
        if keys is not None:
            keep = jax.vmap(lambda key: jax.random.bernoulli(key, 0.9, h.shape[1:]))(keys)
            h = jnp.where(keep, h, 0.0)
        if carry is not None:
            h = h + jnp.swapaxes(carry["memory"], 0, 1)[:, 0, None, :]
            carry = {"memory": jnp.swapaxes(jnp.tanh(h).mean(1, keepdims=True), 0, 1)}
        h = jnp.where((batch["tokens"] == 99)[..., None], jnp.nan, h)
        out = self.param("out", logical(nn.initializers.lecun_normal(), ("embed", "vocab")), (16, 16))
        error = -jnp.take_along_axis(jax.nn.log_softmax(h @ out), batch["targets"][..., None], -1)[..., 0]
        weights = batch["weights"]
        terms = {
            "loss": Term(jnp.sum(error * weights), jnp.sum(weights), 1.0),
            "size": Term(jnp.sum(h**2), jnp.float32(batch["tokens"].size), 0.1),
            "low": Term(jnp.sum((error < 2) * weights), jnp.sum(weights), 0.0),
        }
        return terms, carry

    def initial_carry(self, batch_size):
        return {"memory": jnp.zeros((1, batch_size, 16))} if self.memory else None


def batch_at(k: int, batch_size: int = 8, length: int = 6) -> dict[str, np.ndarray]:
    """Batch k: a pure function of k; targets follow from tokens, so that there is something to learn."""
    rng = np.random.default_rng(k)
    tokens = rng.integers(0, 16, (batch_size, length), dtype=np.int32)
    weights = (rng.random((batch_size, length)) < 0.7).astype(np.float32)
    return {"tokens": tokens, "targets": (tokens * 3 + 1) % 16, "weights": weights}
