"""Operations counted in the jaxpr against counting by hand."""

import jax
import jax.numpy as jnp
import pytest

from tlx.models.flops_traced import matmul_flops


def shape(*dims):
    return jax.ShapeDtypeStruct(dims, jnp.float32)


def test_a_product_is_two_operations_per_multiply_add():
    assert matmul_flops(lambda a, b: a @ b, shape(3, 5), shape(5, 7)) == 2 * 3 * 5 * 7
    batched = matmul_flops(lambda a, b: jnp.einsum("bij,bjk->bik", a, b), shape(4, 3, 5), shape(4, 5, 7))
    assert batched == 4 * 2 * 3 * 5 * 7


@pytest.mark.parametrize("unroll", [1, 6])
def test_a_scan_counts_every_iteration(unroll):
    def function(x, w):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w, unroll=unroll)[0]

    assert matmul_flops(function, shape(2, 5), shape(6, 5, 5)) == 6 * 2 * 2 * 5 * 5


def test_a_loop_of_unknown_length_has_no_products():
    def function(x, step):
        return jax.lax.while_loop(lambda x: jnp.all(x < 9), step, x)

    assert matmul_flops(lambda x: function(x @ x, lambda x: x + 1), shape(3, 3)) == 2 * 3 * 3 * 3
    with pytest.raises(NotImplementedError, match="a while loop with products"):
        matmul_flops(lambda x: function(x, lambda x: x @ x), shape(3, 3))


def test_calls_and_recomputation_are_looked_into():
    inner = jax.jit(jax.checkpoint(lambda a, b: jnp.sin(a @ b)))
    assert matmul_flops(inner, shape(3, 5), shape(5, 7)) == 2 * 3 * 5 * 7
    backward = matmul_flops(jax.grad(lambda a, b: jnp.sum(inner(a, b))), shape(3, 5), shape(5, 7))
    assert backward == 3 * 2 * 3 * 5 * 7  # forward, recomputed, and one gradient
