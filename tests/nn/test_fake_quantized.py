"""Fake quantisation against a numpy oracle of the paper's formulas, and products of integers against both."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tlx.nn import fake_quantized as quantized
from tlx.nn.config import QuantizationConfig
from tlx.nn.linear import Linear

X = np.array([-1, 0.3, 0.49, 2.54], np.float32)


def oracle(x, threshold):
    """q(x) of 8 bits in float64: Zafrir et al. 2019, eq. 1."""
    return np.clip(np.rint(np.asarray(x, np.float64) * (127 / threshold)), -127, 127)


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


def test_a_linear_map_is_the_papers_and_integers_are_its_simulation():
    module, params, x = layer()
    kernel = params["kernel"].reshape(5, 6)
    threshold = np.abs(kernel).max().astype(np.float64)
    scale = (127 / 2.0) * (127 / threshold)
    products = oracle(x, 2.0) @ oracle(kernel, threshold)
    training = products / scale + params["bias"].reshape(-1)
    inference = (products + np.rint(params["bias"].reshape(-1).astype(np.float64) * scale)) / scale
    wanted = oracle(training, 1.5) * 1.5 / 127
    found = np.asarray(module.apply({"params": params}, x)).reshape(4, 7, 6)
    # A value between two levels may be rounded to either.
    near = np.abs(training * 127 / 1.5 % 1 - 0.5) < 1e-3
    np.testing.assert_allclose(found[~near], wanted[~near], atol=1e-6)
    integers = QuantizationConfig(bits=8, integers=True)
    raw = quantized.integer_product(
        jnp.asarray(x), jnp.asarray(kernel), jnp.asarray(params["bias"].reshape(-1)), params["input_range"], 8
    )
    np.testing.assert_allclose(raw, inference, rtol=1e-6, atol=1e-6)
    other = np.asarray(layer(quantization=integers)[0].apply({"params": params}, x)).reshape(4, 7, 6)
    np.testing.assert_allclose(other[~near], found[~near], atol=1e-6)
    assert near.mean() < 0.05 and np.abs(found - (x @ kernel + params["bias"].reshape(-1))).max() > 0.01


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
