"""A pattern of layers in one scan equals the layers one after the other."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.test_transformer import build, config, rows, run
from tlx.models.config import AttentionConfig, ExecutionConfig, PositionConfig
from tlx.models.transformer import Transformer
from tlx.nn.block import Block, BlockInputs
from tlx.nn.config import RotaryScaling
from tlx.nn.mask import Mask

pytestmark = pytest.mark.jax_versions

WINDOWS = (3, 0, 5)
POSITION = PositionConfig(
    kind="rotary", theta=500.0, local_theta=30.0, scaling=RotaryScaling(kind="linear", factor=4.0)
)


def patterned(num_layers=7, **changes):
    attention = AttentionConfig(num_heads=4, num_kv_heads=2, window_pattern=WINDOWS)
    return config(attention=attention, num_layers=num_layers, **{"position": POSITION} | changes)


def loop(cfg, params, batch):
    """Hidden states before the final norm: every layer by itself, with a window and a rotation of its own."""
    x = jnp.take(params["embedding"]["table"], batch["tokens"], axis=0)
    for index in range(cfg.num_layers):
        window = WINDOWS[index % 3]
        theta, factor = (30.0, 1.0) if window else (500.0, 4.0)
        position = PositionConfig(
            kind="rotary", theta=theta, scaling=RotaryScaling(kind="linear", factor=factor)
        )
        attention = dataclasses.replace(cfg.attention, window=window, window_pattern=())
        block = Block(
            dataclasses.replace(cfg, attention=attention, position=position).block("decoder"), parent=None
        )
        layer = jax.tree.map(lambda leaf, index=index: leaf[index], params["decoder"]["blocks"])
        mask = Mask(batch["segments"], batch["segments"], 0, True, window)
        inputs = BlockInputs(mask, positions_BT=batch["positions"])
        x = block.apply({"params": layer}, x, inputs).hidden
    return x


def normed(x, scale, bias):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * scale + bias


@pytest.mark.parametrize("execution", [ExecutionConfig(unroll=1), ExecutionConfig(unroll=3, remat="full")])
def test_a_scanned_period_equals_the_loop(execution):
    cfg, batch = patterned(execution=execution), rows(padding=2)
    model, params = build(cfg, batch)
    expected = jax.jit(lambda params: loop(cfg, params, batch))(params)
    expected = normed(np.asarray(expected), **params["decoder"]["final_norm"])
    np.testing.assert_allclose(run(model, params, batch), expected, atol=2e-5)
    assert np.abs(expected).max() > 0.5


def test_the_pattern_is_one_scan_over_stacked_parameters():
    cfg, batch = patterned(num_layers=7), rows()
    model, params = build(cfg, batch)
    assert params["decoder"]["blocks"]["attention"]["query"]["kernel"].shape[0] == 7
    jaxpr = jax.make_jaxpr(lambda params: model.apply({"params": params}, batch))(params)
    scans = [equation for equation in jaxpr.eqns if equation.primitive.name == "scan"]
    assert [scan.params["length"] for scan in scans] == [2]


def test_each_layer_of_a_pattern_caches_what_it_sees():
    cfg, batch = patterned(num_layers=4), rows(padding=3)
    model, params = build(cfg, batch)
    full = run(model, params, batch)
    cache, pieces = model.init_cache(2, 14), []
    for start, stop in ((0, 6), (6, 7), (7, 12)):
        part = [batch[k][:, start:stop] for k in ("tokens", "positions", "segments")]
        hidden, cache = run(model, params, *part, cache, method=Transformer.decode)
        pieces.append(hidden)
    real = np.asarray(batch["segments"]) > 0
    np.testing.assert_allclose(np.concatenate(pieces, 1)[real], np.asarray(full)[real], atol=2e-5)


def test_fewer_layers_than_a_period():
    cfg, batch = patterned(num_layers=2), rows()
    model, params = build(cfg, batch)
    expected = np.asarray(jax.jit(lambda params: loop(cfg, params, batch))(params))
    expected = normed(expected, **params["decoder"]["final_norm"])
    np.testing.assert_allclose(run(model, params, batch), expected, atol=2e-5)


def test_an_encoder_sees_a_window_on_both_sides():
    cfg = config("encoder", attention=AttentionConfig(num_heads=4, window=3), num_layers=1)
    batch = rows()
    model, params = build(cfg, batch)

    def at(table):
        changed = {**params, "embedding": {"table": table}}
        return model.apply({"params": changed}, batch)[0, 6].sum()

    batch["tokens"] = jnp.broadcast_to(jnp.arange(1, 13), (2, 12))
    moved = jax.jit(jax.grad(at))(params["embedding"]["table"])
    seen = np.flatnonzero(np.abs(moved).sum(1)) - 1
    np.testing.assert_array_equal(seen, [4, 5, 6, 7, 8])
