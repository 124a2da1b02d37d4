"""A pattern of layers in one scan equals the layers one after the other."""

import collections
import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.test_transformer import build, cached_and_full, config, rows, run
from tlx.models.config import AttentionConfig, ExecutionConfig, PositionConfig
from tlx.models.transformer import Transformer
from tlx.nn.block import Block, BlockInputs
from tlx.nn.config import RotaryScaling
from tlx.nn.mask import Mask
from tlx.nn.stack import MOST_UNROLLED, scan_note
from tlx.parallel import unbox

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


@pytest.mark.parametrize(
    "execution",
    [
        pytest.param(ExecutionConfig(unroll=1), marks=pytest.mark.slow),
        ExecutionConfig(unroll=3, remat="full"),
    ],
)
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


@pytest.mark.slow
def test_each_layer_of_a_pattern_caches_what_it_sees():
    cfg, batch = patterned(num_layers=4), rows(padding=3)
    model, params = build(cfg, batch)
    cached, full = cached_and_full(model, params, batch, model.init_cache(2, 14), (6, 7, 12))
    np.testing.assert_allclose(cached, full, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("num_layers", [1, 2])
def test_fewer_layers_than_a_period(num_layers):
    cfg, batch = patterned(num_layers=num_layers), rows()
    model, params = build(cfg, batch)
    expected = np.asarray(jax.jit(lambda params: loop(cfg, params, batch))(params))
    expected = normed(expected, **params["decoder"]["final_norm"])
    np.testing.assert_allclose(run(model, params, batch), expected, atol=2e-5)


@pytest.mark.slow
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


def gradient(cfg, batch):
    """(the jitted gradient of a model, its parameters)."""
    model, params = build(cfg, batch)

    def loss(params):
        return (model.apply({"params": params}, batch).astype(jnp.float32) ** 2).mean()

    return jax.jit(jax.grad(loss)), params


def num_operations(num_layers):
    """Operations of the module that XLA compiles for a gradient."""
    model = Transformer(config(num_layers=num_layers, execution=ExecutionConfig()))
    batch = rows()
    params = unbox(jax.eval_shape(model.init, jax.random.key(1), batch)["params"])
    step = jax.jit(jax.grad(lambda params: model.apply({"params": params}, batch).sum()))
    return step.lower(params).as_text().count(" = ")


def test_a_program_does_not_grow_with_a_deep_stack():
    deep = num_operations(MOST_UNROLLED + 1)
    assert deep == num_operations(2 * MOST_UNROLLED)
    assert deep < num_operations(4)  # which are unrolled


def test_a_deep_stack_is_told_once():
    block = config(execution=ExecutionConfig()).block("decoder")
    assert scan_note(block, MOST_UNROLLED) == ""
    assert f"more than {MOST_UNROLLED} are not unrolled" in scan_note(block, MOST_UNROLLED + 1)
    unrolled = config(execution=ExecutionConfig(unroll=48)).block("decoder")
    assert scan_note(unrolled, 48) == ""


@pytest.mark.slow
@pytest.mark.parametrize(("pattern", "remat"), [((), "none"), ((), "query+gate"), (WINDOWS, "full")], ids=str)
def test_a_scan_keeps_no_copy_of_the_parameters(pattern, remat):
    """Only gradients are written layer by layer: the forward pass stores no slice of a parameter."""
    attention = AttentionConfig(num_heads=4, num_kv_heads=2, window_pattern=pattern)
    cfg = config(num_layers=6, attention=attention, execution=ExecutionConfig(unroll=1, remat=remat))
    step, params = gradient(cfg, rows())
    period = len(pattern) or 1
    gradients = collections.Counter()
    for leaf in jax.tree.leaves(params["decoder"]["blocks"]):
        if leaf.size >= 6 * 512:  # kernels, whose sizes no activation has
            gradients[(6 // period, leaf.size // 6 * period)] += 1
    text = step.lower(params).compile().as_text()
    written = collections.Counter()
    for dims in re.findall(r"= f32\[([\d,]+)\]\S* dynamic-update-slice\(", text):
        shape = tuple(map(int, dims.split(",")))
        written[(shape[0], math.prod(shape[1:]))] += 1
    copies = {shape: n - gradients[shape] for shape, n in written.items() if shape in gradients}
    assert len(copies) == len(gradients) and not any(copies.values())
    # A slice of one layer that a pattern would store has the size of one layer's parameters.
    layer_sizes = {(6 // period, size // period) for _, size in gradients}
    assert period == 1 or not layer_sizes & set(written)
