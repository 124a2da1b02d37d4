"""Fake quantisation against a numpy oracle of the paper's formulas, and products of integers against both."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tlx.base import tree
from tlx.base.errors import ConfigError
from tlx.models.config import ModelConfig
from tlx.models.transformer import Transformer
from tlx.nn import fake_quantized as quantized
from tlx.nn.config import AttentionConfig, QuantizationConfig
from tlx.nn.linear import Linear
from tlx.parallel import unbox

X = np.array([-1, 0.3, 0.49, 2.54], np.float32)


def oracle(x, threshold, top=127):
    """q(x) of 8 bits in float64: Zafrir et al. 2019, eq. 1."""
    return np.clip(np.rint(np.asarray(x, np.float64) * (top / threshold)), -top, top)


def test_values_of_the_papers_formula():
    """s = 50; 24.5 is rounded to the even 24."""
    np.testing.assert_array_equal(quantized.quantize(X, jnp.float32(2.54), 8), [-50, 15, 24, 127])
    np.testing.assert_allclose(quantized.fake_weights(X, 8), [-1, 0.3, 0.48, 2.54], rtol=1e-6)
    # Beyond the range: clamped.
    np.testing.assert_allclose(quantized.fake(X, jnp.float32(1.27), 8), [-1, 0.3, 0.49, 1.27], rtol=1e-6)
    np.testing.assert_array_equal(quantized.fake_weights(jnp.zeros(3), 8), np.zeros(3))


@pytest.mark.parametrize("count", [0.0, 5.0])
def test_gradients_go_straight_through_and_ranges_observe(count):
    """From 2 with a largest magnitude of 3 to 2.0001; at first to the batch's own. The gradient is not clipped."""
    config = QuantizationConfig(bits=8)
    x = jnp.array([3.0, -1.0, 0.5])
    weights = jnp.array([1.0, 2.0, -3.0])

    def loss(x, range_2):
        return jnp.sum(weights * quantized.fake_activations(x, range_2, config))

    before = jnp.array([2.0 if count else 0.0, count])
    value, (dx, observed) = jax.value_and_grad(loss, (0, 1))(x, before)
    np.testing.assert_array_equal(dx, weights)
    np.testing.assert_allclose(before + observed, [2.0001 if count else 3.0, count + 1], rtol=1e-7)
    seen = oracle(x, 2) * 2 / 127 if count else np.asarray(x, np.float64)
    np.testing.assert_allclose(value, np.sum(np.asarray(weights) * seen), rtol=1e-6)


def layer(**changes):
    """A map of [5] to [2, 3] with drawn values and ranges that clip some."""
    rng = np.random.default_rng(0)
    values = {
        "inputs": (5,),
        "outputs": (2, 3),
        "names": ("embed", "heads", "head_dim"),
        "std": 0.3,
        "bias": True,
    }
    values |= {"dtype": "float32", "param_dtype": "float32", "quantization": QuantizationConfig(bits=8)}
    module = Linear(**(values | changes))
    x = rng.normal(size=(4, 7, 5)).astype(np.float32)
    params = {
        "kernel": rng.normal(0, 0.3, (5, 2, 3)).astype(np.float32),
        "bias": rng.normal(0, 0.3, (2, 3)).astype(np.float32),
        "input_range": np.array([2.0, 9.0], np.float32),
        "output_range": np.array([1.5, 9.0], np.float32),
    }
    return module, params, x


def check_rounded(found, values):
    """The output is on the levels of its range; a value between two levels may be rounded to either."""
    near = np.abs(values * 127 / 1.5 % 1 - 0.5) < 1e-3
    wanted = oracle(values, 1.5) * 1.5 / 127
    np.testing.assert_allclose(found[~near], wanted[~near], atol=1e-6)
    assert near.mean() < 0.05


@pytest.mark.parametrize(("groups", "weight_bits"), [(1, 0), (3, 4), (6, 2)])
def test_a_linear_map_is_the_papers_and_integers_are_its_simulation(groups, weight_bits):
    """Kernels of Q8BERT, and those of Q-BERT with a range for each group of 2 outputs, or each output."""
    part = QuantizationConfig(bits=8, groups=groups, weight_bits=weight_bits)
    module, params, x = layer(quantization=part)
    kernel = params["kernel"].reshape(5, 6)
    top = 2 ** ((weight_bits or 8) - 1) - 1
    by_group = np.abs(kernel).max(axis=0).reshape(groups, -1).max(axis=1).astype(np.float64)
    threshold = np.repeat(by_group, 6 // groups)
    scale = (127 / 2.0) * (top / threshold)
    products = oracle(x, 2.0) @ oracle(kernel, threshold, top)
    training = products / scale + params["bias"].reshape(-1)
    inference = (products + np.rint(params["bias"].reshape(-1).astype(np.float64) * scale)) / scale
    found = np.asarray(module.apply({"params": params}, x)).reshape(4, 7, 6)
    check_rounded(found, training)
    raw = quantized.integer_product(
        jnp.asarray(x),
        jnp.asarray(kernel),
        jnp.asarray(params["bias"].reshape(-1)),
        params["input_range"],
        part,
    )
    np.testing.assert_allclose(raw, inference, rtol=1e-6, atol=1e-6)
    other = np.asarray(
        layer(quantization=dataclasses.replace(part, integers=True))[0].apply({"params": params}, x)
    ).reshape(4, 7, 6)
    # Of few bits the rounding of the bias is seen: half a level of the products.
    check_rounded(other, inference)
    assert np.abs(other - found).max() < 1.5 / 127 + 1e-6
    assert np.abs(found - (x @ kernel + params["bias"].reshape(-1))).max() > 0.01


def test_ranges_are_there_where_they_are_read():
    dynamic = QuantizationConfig(bits=8, activations="dynamic")
    for changes, names in (
        ({}, {"kernel", "bias", "input_range", "output_range"}),
        ({"quantized_output": False}, {"kernel", "bias", "input_range"}),
        ({"quantization": dynamic}, {"kernel", "bias"}),
        ({"quantization": QuantizationConfig()}, {"kernel", "bias"}),
    ):
        module, _, x = layer(**changes)
        assert set(jax.eval_shape(module.init, jax.random.key(0), x)["params"]) == names


def test_layers_have_the_bits_that_they_are_given():
    """Kernels that are of so many bits already do not change; tables have bits and groups of their own."""
    part = QuantizationConfig(8, layer_bits=(2, 6), table_bits=3, groups=4, activations="dynamic")
    config = ModelConfig(
        kind="encoder",
        vocab_size=20,
        vocab_multiple=1,
        width=16,
        num_layers=2,
        attention=AttentionConfig(num_heads=2),
        quantization=part,
    )
    config.validate()
    tokens = np.arange(12, dtype=np.int32).reshape(2, 6)
    batch = {"tokens": tokens, "positions": tokens % 6, "segments": np.ones_like(tokens)}
    model = Transformer(config)
    shapes = tree.flatten(unbox(jax.eval_shape(model.init, jax.random.key(0), batch)["params"]))
    rng = np.random.default_rng(0)
    params = {path: rng.normal(0, 0.4, leaf.shape).astype(np.float32) for path, leaf in shapes.items()}

    def rounded(values, bits, num_inputs):
        flat = values.reshape(np.prod(values.shape[:num_inputs]), -1)
        thresholds = np.repeat(np.abs(flat).max(axis=0).reshape(4, -1).max(axis=1), flat.shape[1] // 4)
        top = 2 ** (bits - 1) - 1
        return (oracle(flat, thresholds, top) * thresholds / top).reshape(values.shape).astype(np.float32)

    @jax.jit
    def run(params):
        return model.apply({"params": tree.unflatten(params)}, batch)

    before = run(params)
    for bits, is_same in (((2, 6), True), ((6, 2), False)):
        changed = dict(params)
        changed["embedding/table"] = rounded(params["embedding/table"], 3, 1)
        for path, leaf in params.items():
            if path.endswith("/kernel") and "/blocks/" in path:
                num_inputs = 2 if "attention/out" in path else 1
                changed[path] = np.stack([rounded(x, b, num_inputs) for x, b in zip(leaf, bits, strict=True)])
        difference = np.abs(np.asarray(run(changed) - before)).max()
        assert (difference < 1e-4) == is_same, (bits, difference)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (QuantizationConfig(8, layer_bits=(2, 4)), "a number for each of model.num_layers = 4"),
        (QuantizationConfig(8, weight_bits=1), "weight_bits = 1 must be 2 to 8"),
        (QuantizationConfig(0, weight_bits=4), "need model.quantization.bits"),
        (QuantizationConfig(8, groups=3), "groups = 3 does not divide .* 128, 512; choose one of 1, 2, 4"),
    ],
)
def test_what_cannot_be_quantised_so_is_named(part, message):
    with pytest.raises(ConfigError, match=message):
        ModelConfig(kind="encoder", vocab_size=20, quantization=part).validate()
