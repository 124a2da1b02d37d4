"""What is computed otherwise for a TPU is the same: joined heads, sums in float32, barriers, statistics."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tlx.base.platform import compile_for
from tlx.models.config import ModelConfig
from tlx.nn.config import FeedForwardConfig, NormConfig
from tlx.nn.feedforward import FeedForward
from tlx.nn.linear import Linear
from tlx.nn.norm import Norm


def linear(inputs, outputs):
    names = (None,) * len(inputs + outputs)
    return Linear(inputs, outputs, names, 0.1, True, "float32", "float32", flat=True)


def feedforward(gated):
    part = FeedForwardConfig(ff_dim=24, activation="gelu", gated=gated)
    cfg = ModelConfig(width=16, num_layers=1, feedforward=part).block("encoder")
    return FeedForward(dataclasses.replace(cfg, dtype="float32"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "module, shape, dtype",
    [
        (linear((16,), (4, 8)), (2, 5, 16), jnp.float32),
        (linear((4, 8), (16,)), (2, 5, 4, 8), jnp.float32),
        (linear((16,), (4, 8)), (2, 5, 16), jnp.bfloat16),
        (feedforward(gated=False), (2, 5, 16), jnp.float32),
        (feedforward(gated=True), (2, 5, 16), jnp.float32),
        (Norm(NormConfig(), 64), (2, 5, 64), jnp.bfloat16),
    ],
    ids=["heads out", "heads in", "bfloat16", "feed-forward", "gated", "norm"],
)
def test_a_tpu_computes_the_same(module, shape, dtype):
    x = (3 + jax.random.normal(jax.random.key(0), shape)).astype(dtype)
    params = jax.tree.map(lambda p: p + 0.1, jax.jit(module.init)(jax.random.key(1), x))

    def loss(params, x):
        return jnp.sum(jnp.sin(module.apply(params, x).astype(jnp.float32)))

    def run():
        return jax.jit(jax.value_and_grad(lambda *given: loss(*given), argnums=(0, 1)))(params, x)

    wanted = run()
    with compile_for("tpu"):
        found = run()
    tolerance = 1e-2 if dtype == jnp.bfloat16 else 1e-5
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        ours, theirs = (np.asarray(y, np.float32) for y in (ours, theirs))
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance * np.abs(theirs).max())
