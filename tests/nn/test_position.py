"""Positions: the skew of relative attention, T5's buckets, rotations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlx.base.platform import compile_for
from tlx.models.config import ModelConfig
from tlx.nn.config import AttentionConfig, PositionConfig
from tlx.nn.position import RelativeLogits, relative_bucket, rotate, sinusoid, skew
from tlx.parallel import unbox


@pytest.mark.slow
@settings(deadline=None, max_examples=20)
@given(rows=st.integers(1, 6), keys=st.integers(1, 9))
def test_skew_reads_the_distance_of_query_and_key(rows, keys):
    width = rows + keys - 1
    x = np.arange(2 * rows * width, dtype=np.float32).reshape(2, rows, width)
    expected = [[[x[b, i, rows - 1 - i + j] for j in range(keys)] for i in range(rows)] for b in range(2)]
    np.testing.assert_array_equal(skew(jnp.asarray(x), keys), np.array(expected))


def reference_bucket(distance, count, max_distance, bidirectional):
    """Raffel et al. 2020, 2.1, one distance at a time."""
    result = 0
    if bidirectional:
        count //= 2
        if distance > 0:
            result += count
        distance = abs(distance)
    else:
        distance = max(-distance, 0)
    exact = count // 2
    if distance < exact:
        return result + distance
    share = np.log(np.float32(distance) / exact) / np.log(max_distance / exact)
    return result + min(exact + int(np.float32(share) * (count - exact)), count - 1)


def test_buckets_are_exact_near_and_logarithmic_far():
    cfg = PositionConfig(kind="relative_bias")
    distances = np.arange(-600, 600)
    for both in (True, False):
        expected = [reference_bucket(d, 32, 128, both) for d in distances]
        got = np.asarray(relative_bucket(jnp.asarray(distances), cfg, both))
        # A float32 logarithm may fall on the other side of a boundary, which only powers of two reach.
        assert np.sum(got != expected) == 0
        assert got.min() == 0 and got.max() == 31 if both else got.max() == 31


def test_rotation_depends_on_the_distance_only():
    cfg = PositionConfig(kind="rotary", rotary_fraction=0.5)
    q, k = jax.random.normal(jax.random.key(0), (2, 1, 1, 2, 16))

    def score(query_at, key_at):
        return jnp.sum(rotate(q, jnp.full((1, 1), query_at), cfg) * rotate(k, jnp.full((1, 1), key_at), cfg))

    np.testing.assert_allclose(score(7, 3), score(104, 100), rtol=1e-4)
    assert abs(score(7, 3) - score(8, 3)) > 1e-3
    turned = rotate(q, jnp.full((1, 1), 5), cfg)
    np.testing.assert_array_equal(turned[..., 8:], q[..., 8:])


def test_relative_logits_are_those_of_the_definition():
    """(q_i + v) W_r r[i - j] for every query and key, memory before them; in a row in reverse r[j - i]."""
    length, memory, width = 5, 3, 8
    block = ModelConfig(
        kind="two_stream",
        width=width,
        block_layout="post",
        attention=AttentionConfig(num_heads=2),
        position=PositionConfig(kind="relative_sinusoidal"),
    ).block("encoder")
    keys = length + memory
    module, rng = RelativeLogits(block), np.random.default_rng(0)
    query = rng.normal(size=(3, length, 2, 4)).astype(np.float32)
    backwards, places = jnp.array([0, 1, 0]), jnp.array([[4, 1], [0, 3], [2, 2]])

    def both(module, query):
        table = module.keys(length, keys, memory, backwards)
        some = jnp.take_along_axis(query, places[:, :, None, None], axis=1)
        gathered = module.gathered(some, places, table, length, keys)
        return module(query, table, keys), gathered, module(query, module.keys(length, keys, memory), keys)

    params = module.init(jax.random.key(0), query, method=both)["params"]
    params = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), unbox(params))
    got, gathered, forward = module.apply({"params": params}, query, method=both)
    kernel = np.asarray(params["position"]["kernel"], np.float64)
    bias = np.asarray(params["position_bias"], np.float64)
    rates = 10_000.0 ** (-np.arange(width // 2) / (width // 2))
    for b, n, i, j in np.ndindex(3, 2, length, keys):
        distance = (memory + i - j) * (-1 if backwards[b] else 1)
        sinusoids = np.concatenate([np.sin(distance * rates), np.cos(distance * rates)])
        expected = (query[b, i, n] + bias[n]) @ (sinusoids @ kernel[:, n])
        np.testing.assert_allclose(got[b, n, i, j], expected, atol=1e-4)
    for b, n, p in np.ndindex(3, 2, 2):
        np.testing.assert_allclose(gathered[b, n, p], got[b, n, places[b, p]], atol=1e-5)
    np.testing.assert_allclose(forward[0], got[0], atol=1e-5)
    assert np.abs(forward[1] - got[1]).max() > 0.1


def test_sinusoids_in_both_layouts():
    positions = jnp.arange(5)
    halves = sinusoid(positions, 6, 10_000.0, "halves")
    pairs = sinusoid(positions, 6, 10_000.0, "interleaved")
    np.testing.assert_allclose(halves[3, 1], np.sin(3 / 10_000 ** (2 / 6)), rtol=1e-6)
    np.testing.assert_allclose(halves[3, 4], np.cos(3 / 10_000 ** (2 / 6)), rtol=1e-6)
    np.testing.assert_array_equal(pairs[:, ::2], halves[:, :3])


def test_a_rotation_made_for_a_tpu_is_the_same():
    """There halves are swapped by a product, which is exact in bfloat16 too."""
    x = jax.random.normal(jax.random.key(0), (2, 8, 3, 16)).astype(jnp.bfloat16)
    places = jnp.arange(16).reshape(2, 8)
    cfg = PositionConfig("rotary", rotary_fraction=0.5)
    here = jax.jit(lambda x: rotate(x, places, cfg))(x)
    with compile_for("tpu"):
        there = jax.jit(lambda x: rotate(x, places, cfg) + 0)(x)
    np.testing.assert_array_equal(np.asarray(here, np.float32), np.asarray(there, np.float32))
