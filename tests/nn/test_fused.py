"""The Pallas kernel with biases and arbitrary masks, interpreted, against plain einsums."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.tiers import tiers
from tlx import parallel
from tlx.nn.kernels import fused, xla
from tlx.nn.kernels.inputs import AttentionInputs
from tlx.nn.mask import Mask
from tlx.nn.position import per_device_bias, skew
from tlx.nn.relative import RelativeTerms
from tlx.parallel import PRESETS, MeshConfig

# Queries, keys: more than a block of 128, and no whole tiles.
SIZES = {"plain": (40, 72), "bias": (130, 130), "relative": (136, 140), "places": (20, 140)}


@pytest.fixture(autouse=True)
def compiled_anew():
    """An interpreted kernel that a process reads from the compilation cache crashes it (jax 0.10.2, CPU)."""
    name = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, name)
    jax.config.update(name, 1e9)
    yield
    jax.config.update(name, before)


def normal(number: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(number), shape)


def laid_out(term: RelativeTerms, num_keys: int) -> jax.Array:
    """The relative term's logits [B, N, T, S]."""
    terms = jnp.einsum("btnh,rnh->bntr", term.query_BTNH, term.keys_RNH)
    if term.places_BP is None:
        return skew(terms, num_keys)
    start = (term.rows - 1 - term.places_BP)[:, None, :, None]
    return jnp.take_along_axis(terms, start + jnp.arange(num_keys), axis=3)


def case(name: str, heads: int = 2):
    """(query, key, value, bias or term), and the mask."""
    batch, width, rows, (num_queries, num_keys) = 2, 64, 136, SIZES[name]
    lengths = (num_queries, num_keys, num_keys)
    query, key, value = (normal(i, batch, length, heads, width) for i, length in enumerate(lengths))
    keys = jax.random.split(jax.random.key(9), 4)
    segments = [jnp.sort(jax.random.randint(keys[side], (batch, lengths[side]), 1, 3)) for side in (0, 1)]
    bias, mask = None, Mask(*segments)
    if name == "bias":
        bias, mask = normal(5, 1, heads, num_queries, num_keys), Mask(segments[0], segments[0], causal=True)
    if name in ("relative", "places"):
        places = None
        if name == "places":
            places = jnp.sort(jax.random.randint(keys[2], (batch, num_queries), 0, rows))
        distances = normal(7, rows - 1 + num_keys, heads, width)
        bias = RelativeTerms(normal(5, batch, num_queries, heads, width), distances, rows, places)
        visible = jax.random.bernoulli(keys[3], 0.5, (batch, num_queries, num_keys))
        mask = Mask(*segments, visible=visible.at[0, 3].set(False))  # a query that sees nothing
    return (query, key, value, bias), mask


def value_and_gradients(kernel, inputs, mask):
    """A weighted sum of what the kernel gives, and its gradients."""
    weights = normal(11, *inputs[0].shape)

    def loss(query, key, value, bias):
        if kernel is xla and isinstance(bias, RelativeTerms):
            bias = laid_out(bias, key.shape[1])
        elif kernel is fused and isinstance(bias, jax.Array):
            bias = per_device_bias(bias, query.shape[0])
        return jnp.sum(kernel.attend(AttentionInputs(query, key, value, mask, bias, 0.125)) * weights)

    run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3), allow_int=True))
    value, grads = run(*inputs)
    return value, [grad for grad in jax.tree.leaves(grads) if grad.dtype == jnp.float32]


def assert_alike(found, wanted):
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-5)
    for ours, theirs in zip(found[1], wanted[1], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)


@pytest.mark.parametrize(
    "name", tiers(["plain", "bias", "relative", "places"], quick=["plain"], slow=["bias", "places"])
)
def test_equals_the_einsums(name):
    inputs, mask = case(name)
    assert_alike(value_and_gradients(fused, inputs, mask), value_and_gradients(xla, inputs, mask))


@pytest.mark.parametrize("name", tiers(["bias", "relative"], slow=["bias"]))
def test_each_device_works_on_its_own_rows_and_heads(name):
    inputs, mask = case(name, heads=4)
    wanted = value_and_gradients(xla, inputs, mask)
    mesh = parallel.make_mesh(MeshConfig(data=2, tensor=2, rules="fsdp_tp"), jax.devices()[:4])
    with parallel.use(mesh, PRESETS["fsdp_tp"]):
        found = value_and_gradients(fused, inputs, mask)
    assert_alike(found, wanted)


@pytest.mark.slow
def test_before_v5_rows_move_one_bit_of_their_number_after_the_other(monkeypatch):
    """Those chips have no instruction that moves each row farther than the last."""
    asked = []
    monkeypatch.setattr(fused.pltpu, "roll", _without_strides(fused.pltpu.roll, asked))
    monkeypatch.setattr(fused, "device_kind", lambda: "TPU v4")
    inputs, mask = case("relative")
    assert_alike(value_and_gradients(fused, inputs, mask), value_and_gradients(xla, inputs, mask))
    assert asked


def _without_strides(roll, asked):
    def refusing(x, shift, axis):
        asked.append(shift)
        return roll(x, shift, axis)

    return refusing
