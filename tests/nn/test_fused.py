"""The Pallas kernel with biases and arbitrary masks, interpreted, against plain einsums."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tlx.nn.kernels import fused, xla
from tlx.nn.mask import Mask
from tlx.nn.position import skew
from tlx.nn.relative import Relative


def normal(number: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(number), shape)


def laid_out(term: Relative, num_keys: int) -> jax.Array:
    """The relative term's logits [B, N, T, S]."""
    terms = jnp.einsum("btnh,rnh->bntr", term.query_BTNH, term.keys_RNH)
    if term.places_BP is None:
        return skew(terms, num_keys)
    start = (term.rows - 1 - term.places_BP)[:, None, :, None]
    return jnp.take_along_axis(terms, start + jnp.arange(num_keys), axis=3)


def case(name: str):
    """(query, key, value, bias or term, mask)."""
    batch, heads, width = 2, 4, 64
    sizes = {"plain": (96, 160), "bias": (130, 130), "relative": (160, 200), "places": (20, 200)}
    num_queries, num_keys = sizes[name]
    q, k, v = (normal(i, batch, size, heads, width) for i, size in enumerate((num_queries, num_keys, num_keys)))
    segments = [jnp.sort(jax.random.randint(jax.random.key(9), (batch, n), 1, 3)) for n in (num_queries, num_keys)]
    bias, mask = None, Mask(*segments)
    if name == "bias":
        bias, mask = normal(5, 1, heads, num_queries, num_keys), Mask(segments[0], segments[0], causal=True)
    if name in ("relative", "places"):
        rows = 160
        places = jnp.sort(jax.random.randint(jax.random.key(6), (batch, 20), 0, rows)) if name == "places" else None
        bias = Relative(normal(5, batch, num_queries, heads, width), normal(7, rows - 1 + num_keys, heads, width), rows, places)
        visible = jax.random.bernoulli(jax.random.key(8), 0.5, (batch, num_queries, num_keys)).at[0, 3].set(False)
        mask = Mask(*segments, visible=visible)
    return q, k, v, bias, mask


@pytest.mark.parametrize("name", ["plain", "bias", "relative", "places"])
def test_equals_the_einsums(name):
    q, k, v, bias, mask = case(name)
    weights = normal(11, *q.shape)

    def loss(kernel, inputs):
        q, k, v, bias = inputs
        if kernel is xla and isinstance(bias, Relative):
            bias = laid_out(bias, k.shape[1])
        return jnp.sum(kernel.attend(q, k, v, mask, bias, 0.125) * weights)

    def both(kernel):
        return jax.jit(jax.value_and_grad(lambda x: loss(kernel, x), allow_int=True))((q, k, v, bias))

    (found, found_grads), (wanted, wanted_grads) = both(fused), both(xla)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    for ours, theirs in zip(jax.tree.leaves(found_grads), jax.tree.leaves(wanted_grads), strict=True):
        if ours.dtype == jnp.float32:
            np.testing.assert_allclose(ours, theirs, atol=2e-5)
