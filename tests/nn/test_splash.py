"""The Pallas kernel, interpreted, against plain einsums."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tlx.base.errors import ConfigError
from tlx.nn.kernels import splash, xla
from tlx.nn.kernels.inputs import AttentionInputs
from tlx.nn.mask import Mask


def inputs(num_queries: int, num_keys: int):
    """query, key, value with grouped heads, and segments that change at other places of the two sides."""
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = (2, num_queries, 4, 64), (2, num_keys, 2, 64), (2, num_keys, 2, 64)
    arrays = [jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True)]
    first = num_queries // 2, num_keys // 3 if num_keys != num_queries else num_keys // 2
    segments = [
        jnp.broadcast_to(jnp.where(jnp.arange(size) < bound, 1, 2), (2, size))
        for size, bound in zip((num_queries, num_keys), first, strict=True)
    ]
    return arrays, segments


@pytest.mark.parametrize(
    "num_keys, structure",
    [(128, {"causal": True}), (128, {"causal": True, "window": 40}), (128, {"window": 40}), (256, {})],
    ids=["causal", "causal window", "window", "cross"],
)
def test_equals_the_einsums(monkeypatch, num_keys, structure):
    make = functools.partial(splash.splash.make_splash_mha_single_device, interpret=True)
    monkeypatch.setattr(splash.splash, "make_splash_mha_single_device", make)
    arrays, segments = inputs(128, num_keys)
    mask = Mask(*segments, **structure)
    found, wanted = (
        jax.jit(lambda *x, attend=kernel.attend: attend(AttentionInputs(*x, mask, scale=64**-0.5)))(*arrays)
        for kernel in (splash, xla)
    )
    np.testing.assert_allclose(found, wanted, atol=2e-6)


def test_what_it_cannot_do_is_an_error():
    arrays, segments = inputs(128, 200)
    with pytest.raises(ConfigError, match="200 keys, no multiple of 128"):
        splash.attend(AttentionInputs(*arrays, Mask(*segments)))
    with pytest.raises(ValueError, match="128 queries of 200 keys, causal"):
        splash.attend(AttentionInputs(*arrays, Mask(*segments, causal=True)))
