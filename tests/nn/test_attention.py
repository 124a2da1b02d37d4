"""Attention against the formulas, one query at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.test_transformer import build, config, rows, run
from tlx.models.config import AttentionConfig, NormConfig, PositionConfig
from tlx.models.transformer import Transformer
from tlx.nn.attention import Attention
from tlx.nn.config import RotaryScaling
from tlx.nn.disentangled import dropped_distances
from tlx.nn.mask import Mask
from tlx.nn.position import rotation_rates
from tlx.parallel import unbox

pytestmark = pytest.mark.jax_versions


def rms(x, scale, eps=1e-5):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * (1 + scale)


def test_normed_queries_a_scale_of_its_own_and_a_cap():
    part = AttentionConfig(num_heads=4, num_kv_heads=2, qk_norm=True, softcap=2.0, query_pre_attn_scalar=5)
    cfg = config(
        attention=part,
        position=PositionConfig(kind="none"),
        norm=NormConfig("rmsnorm", 1e-5, unit_offset=True),
    )
    x = jax.random.normal(jax.random.key(0), (1, 6, 32))
    layer = Attention(cfg.block("decoder"))
    mask = Mask(None, None, 0, True)
    params = unbox(layer.init(jax.random.key(1), x, x, mask)["params"])
    params = jax.tree.map(lambda p: 0.3 * jax.random.normal(jax.random.key(p.size), p.shape), params)
    got = layer.apply({"params": params}, x, x, mask).hidden

    p = jax.tree.map(np.asarray, params)
    q, k, v = (
        np.einsum("btd,dnh->btnh", x, p[n]["kernel"]) + p[n]["bias"] for n in ("query", "key", "value")
    )
    q, k = rms(q, p["query_norm"]["scale"]), rms(k, p["key_norm"]["scale"])
    expected = np.zeros((6, 4, 8))
    for t in range(6):
        for n in range(4):
            logits = k[0, : t + 1, n // 2] @ q[0, t, n] / np.sqrt(5)
            weights = np.exp(2 * np.tanh(logits / 2))
            expected[t, n] = weights @ v[0, : t + 1, n // 2] / weights.sum()
    expected = np.einsum("tnh,nhd->td", expected, p["out"]["kernel"]) + p["out"]["bias"]
    np.testing.assert_allclose(got[0], expected, atol=2e-5)


@pytest.mark.slow
def test_each_layer_may_have_a_bias_of_its_own():
    own = config(position=PositionConfig(kind="relative_bias", per_layer=True))
    shared = config(position="relative_bias")
    batch = rows(padding=2)
    model, params = build(own, batch)
    tables = params["decoder"]["blocks"]["attention"].pop("position_bias")["table"]
    assert tables.shape == (2, 32, 4)
    same = jnp.stack([tables[0]] * 2)
    expected = run(
        Transformer(shared),
        {**params, "decoder": {**params["decoder"], "position_bias": {"table": tables[0]}}},
        batch,
    )
    for table, equal in ((same, True), (tables, False)):
        attention = {**params["decoder"]["blocks"]["attention"], "position_bias": {"table": table}}
        blocks = {**params["decoder"]["blocks"], "attention": attention}
        got = run(model, {**params, "decoder": {**params["decoder"], "blocks": blocks}}, batch)
        assert np.allclose(got, expected, atol=1e-5) is equal


@pytest.mark.slow
def test_the_sandwich_norms_what_a_part_adds():
    cfg = config(block_layout="sandwich", num_layers=1, norm=NormConfig("rmsnorm"))
    batch = rows()
    model, params = build(cfg, batch)
    nothing = jax.tree.map(jnp.zeros_like, params["decoder"]["blocks"]["attention_post_norm"])
    blocks = {**params["decoder"]["blocks"], "attention_post_norm": nothing, "feedforward_post_norm": nothing}
    got = run(model, {**params, "decoder": {**params["decoder"], "blocks": blocks}}, batch)
    x = np.asarray(params["embedding"]["table"])[np.asarray(batch["tokens"])]
    scale = np.asarray(params["decoder"]["final_norm"]["scale"])
    np.testing.assert_allclose(got, rms(x, scale - 1), atol=1e-5)
    assert np.abs(got - run(model, params, batch)).max() > 0.1


@pytest.mark.parametrize("kind", ["linear", "llama3"])
def test_scaled_rotations_keep_what_is_short_and_stretch_what_is_long(kind):
    plain = np.asarray(rotation_rates(PositionConfig(kind="rotary"), 128))
    scaling = RotaryScaling(
        kind=kind, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_length=8192
    )
    got = np.asarray(rotation_rates(PositionConfig(kind="rotary", scaling=scaling), 128))
    if kind == "linear":
        np.testing.assert_allclose(got, plain / 8, rtol=1e-6)
        return
    lengths = 2 * np.pi / plain
    np.testing.assert_allclose(got[lengths < 8192 / 4], plain[lengths < 8192 / 4], rtol=1e-6)
    np.testing.assert_allclose(got[lengths > 8192], plain[lengths > 8192] / 8, rtol=1e-6)
    assert np.all(np.diff(got) < 0)


@pytest.mark.parametrize("shared", [False, True])
def test_the_table_of_distances_is_dropped_row_by_row(shared):
    """DeBERTa: a layer that trains reads, for each row, what its dropout leaves of the table."""
    position = PositionConfig(kind="disentangled", num_buckets=6, max_distance=9, shared_projections=shared)
    part = AttentionConfig(num_heads=4)
    cfg = config("encoder", position, attention=part, dropout=0.4).block("encoder")
    x, table = (jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate([(2, 7, 32), (12, 32)]))
    layer, mask = Attention(cfg), Mask(None, None)

    def attend(params, x, table, keys=None):
        return layer.apply({"params": params}, x, x, mask, distances_RD=table, keys_B=keys)[0]

    init = lambda key: layer.init(key, x, x, mask, distances_RD=table)["params"]  # noqa: E731
    shapes = unbox(jax.eval_shape(init, jax.random.key(0)))
    params = jax.tree.map(lambda p: 0.3 * jax.random.normal(jax.random.key(p.size), p.shape), shapes)
    keys = jax.random.split(jax.random.key(5), 2)
    found = jax.jit(attend)(params, x, table, keys)
    dropped = dropped_distances(table, 0.4, keys)
    assert dropped.shape == (2, 12, 32) and 0.2 < float(jnp.mean(dropped == 0)) < 0.6
    assert not jnp.array_equal(dropped[0], dropped[1])
    for row in range(2):
        alone = jax.jit(attend)(params, x[row : row + 1], dropped[row])
        np.testing.assert_allclose(found[row], alone[0], atol=1e-5)
        whole = jax.jit(attend)(params, x[row : row + 1], table)
        assert np.abs(found[row] - whole[0]).max() > 1e-2
