"""Products in 8 bits are qwix's own, near those in full, and train."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.test_transformer import build, config, rows
from tlx.base.errors import ConfigError
from tlx.models.transformer import Transformer
from tlx.nn.config import ExecutionConfig, FeedForwardConfig
from tlx.nn.quantized import FORMATS, product
from tlx.run import base_config
from tlx.run.checks import resolve

qwix = pytest.importorskip("qwix")


class Map(nn.Module):
    """x W, as qwix's interception finds it."""

    @nn.compact
    def __call__(self, x):
        kernel = self.param("kernel", nn.initializers.normal(0.5), (24, 40))
        return jax.lax.dot_general(x, kernel, (((2,), (0,)), ((), ())))


def value_and_grads(function, x, kernel, g):
    @jax.jit
    def run(x, kernel, g):
        y, pull = jax.vjp(function, x, kernel)
        return y, *pull(g)

    return run(x, kernel, g)


@pytest.fixture
def arrays():
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = (2, 5, 24), (24, 40), (2, 5, 40)
    return [jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True)]


@pytest.mark.parametrize("name", FORMATS)
def test_products_are_those_of_qwix_in_training(name, arrays):
    forward, back = FORMATS[name]
    rest = {"use_original_residuals": True, "dlhs_residual_qtype": forward, "drhs_grad_qtype": None}
    rule = qwix.QtRule(
        module_path=".*",
        weight_qtype=forward,
        act_qtype=forward,
        bwd_qtype=back,
        additional_qt_config=rest,
    )
    model = qwix.quantize_model(Map(), qwix.QtProvider([rule]))
    theirs = value_and_grads(lambda x, w: model.apply({"params": {"kernel": w}}, x), *arrays)
    ours = value_and_grads(lambda x, w: product(x, w, 1, name), *arrays)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name, most", [("int8", 0.02), ("fp8", 0.1)])
def test_products_are_near_those_in_full(name, most, arrays):
    x, kernel, g = arrays
    heads = kernel.reshape(4, 6, 8, 5), x.reshape(2, 5, 4, 6), g.reshape(2, 5, 8, 5)
    ours = value_and_grads(lambda x, w: product(x, w, 2, name), heads[1], heads[0], heads[2])
    y, dx, dkernel = value_and_grads(lambda x, w: x @ w, x, kernel, g)
    assert [part.shape for part in ours] == [(2, 5, 8, 5), (2, 5, 4, 6), (4, 6, 8, 5)]
    for one, other in zip(ours[:2], (y, dx), strict=True):
        error = jnp.linalg.norm(one.ravel() - other.ravel()) / jnp.linalg.norm(other)
        assert 1e-3 < error < most
    np.testing.assert_allclose(ours[2].reshape(24, 40), dkernel, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name, most", [("int8", 0.01), ("fp8", 0.03)])
def test_a_model_learns_as_in_full(name, most):
    """Forty steps on one batch: the same way down, and not to the digit."""
    batch, execution = rows(), ExecutionConfig(unroll=1, remat="full")
    cfg = config(execution=execution)
    model, params = build(cfg, batch)
    paths = []
    for matmul in ("dtype", name):
        model = Transformer(dataclasses.replace(cfg, matmul=matmul))

        def loss(params, model=model):
            hidden = model.apply({"params": params}, batch)
            logits = hidden @ params["embedding"]["table"].T
            chosen = jax.nn.log_softmax(logits)[:, :-1]
            return -jnp.take_along_axis(chosen, batch["tokens"][:, 1:, None], axis=-1).mean()

        def step(params, _, loss=loss):
            value, grads = jax.value_and_grad(loss)(params)
            return jax.tree.map(lambda p, g: p - 0.005 * g, params, grads), value

        paths.append(jax.jit(lambda params, step=step: jax.lax.scan(step, params, None, 40)[1])(params))
    full, eighth = map(np.asarray, paths)
    assert full[-1] < 0.7 * full[0]
    np.testing.assert_allclose(eighth, full, rtol=most)
    assert np.abs(eighth - full).max() > 1e-5


def test_what_has_no_products_in_8_bits_is_told():
    experts = FeedForwardConfig(num_experts=4, bias=False)
    with pytest.raises(ConfigError, match="matmul = 'int8': products of experts"):
        config(matmul="int8", feedforward=experts).validate()
    values = base_config("clm")
    values.model.matmul = "int4"
    with pytest.raises(ConfigError, match="matmul"):
        resolve(values)
