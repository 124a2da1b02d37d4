"""Maps of the same x by one product are what they are by their own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from tlx.nn.linear import Linear, fused_projections


class Maps(nn.Module):
    """Query, key and value of 4 heads and 2 key heads, or the two of a gated network."""

    outputs: tuple[tuple[int, ...], ...]
    together: bool

    def setup(self):
        names = ("embed", "heads", "head_dim")[: len(self.outputs[0]) + 1]
        self.layers = [
            Linear((8,), out, names, 0.5, bias=True, dtype="float32", param_dtype="float32")
            for out in self.outputs
        ]

    def __call__(self, x):
        return fused_projections(x, self.layers) if self.together else [layer(x) for layer in self.layers]


@pytest.mark.parametrize("outputs", [((4, 3), (2, 3), (2, 3)), ((4, 3), (4, 3)), ((6,), (6,))])
def test_one_product_is_as_many(outputs):
    x = jax.random.normal(jax.random.key(0), (2, 5, 8))

    @jax.jit
    def run(key, x):
        boxed = Maps(outputs, False).init(key, x)
        params = jax.tree.map(lambda p: p + 0.1 * jax.random.normal(key, p.shape), nn.meta.unbox(boxed))
        return Maps(outputs, False).apply(params, x), Maps(outputs, True).apply(params, x)

    apart, together = run(jax.random.key(1), x)
    for one, other in zip(apart, together, strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
    assert not jnp.allclose(together[0].ravel()[: together[-1].size], together[-1].ravel())
