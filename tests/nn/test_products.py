"""Products with joined rows are what they are with rows apart, and their gradients transpose no large array."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tlx.nn import products
from tlx.nn.kernels import xla
from tlx.nn.kernels.inputs import AttentionInputs
from tlx.nn.mask import Mask


@pytest.mark.parametrize(
    "kernel, num_inputs, outputs_first, einsum",
    [
        ((6, 4), 1, False, "btd,df->btf"),
        ((6, 2, 5), 1, False, "btd,dnh->btnh"),
        ((7, 6), 1, True, "btd,vd->btv"),
    ],
)
def test_joined_rows_are_rows(kernel, num_inputs, outputs_first, einsum):
    x = jax.random.normal(jax.random.key(0), (2, 3, 6))
    weights = jax.random.normal(jax.random.key(1), kernel)
    y = products.contract(x, weights, num_inputs, outputs_first=outputs_first)
    np.testing.assert_allclose(y, jnp.einsum(einsum, x, weights), rtol=1e-5, atol=1e-6)


def test_joined_heads_are_heads():
    x = jax.random.normal(jax.random.key(0), (2, 3, 4, 5))
    weights = jax.random.normal(jax.random.key(1), (4, 5, 6))
    expected = jnp.einsum("btnh,nhd->btd", x, weights)
    np.testing.assert_allclose(products.contract(x, weights, 2), expected, rtol=1e-5, atol=1e-6)


def test_rows_over_several_devices_stay_apart():
    assert products.joins_rows()
    mesh = jax.make_mesh((2, 4), ("data", "sequence"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        assert not products.joins_rows()


def transposed(function, *args) -> list[str]:
    """Shapes of over 20,000 elements that the compiled function transposes, its own fusions included."""
    text = jax.jit(function).lower(*args).compile().as_text()
    shapes = re.findall(r"= f32\[([\d,]+)\]\S* transpose\(", text)
    return [shape for shape in shapes if np.prod([int(size) for size in shape.split(",")]) > 20_000]


def test_the_gradient_of_a_kernel_transposes_no_logits(monkeypatch):
    x = jnp.ones((2, 16, 8))
    table = jnp.ones((1024, 8))

    def loss(x, table):
        return jnp.sum(jnp.sin(products.contract(x, table, 1, outputs_first=True)))

    assert transposed(jax.grad(loss, (0, 1)), x, table) == []
    monkeypatch.setattr(products, "joins_rows", lambda: False)
    jax.clear_caches()
    assert transposed(jax.grad(loss, (0, 1)), x, table)


def test_the_gradient_of_keys_transposes_no_scores():
    arrays = [jnp.ones((2, 128, 2, 4)) for _ in range(3)]

    def loss(query, key, value):
        return jnp.sum(jnp.sin(xla.attend(AttentionInputs(query, key, value, Mask(None, None, causal=True)))))

    assert transposed(jax.grad(loss, (0, 1, 2)), *arrays) == []
