"""muP and CompleteP: the standard at the base, elsewhere as the tables say: starts, multipliers, rates."""

import dataclasses

import jax
import numpy as np
import pytest

from tests.training.shapes import examples, make
from tlx import parallel
from tlx.base import tree
from tlx.base.errors import ConfigError
from tlx.models.config import HeadConfig, ParametrizationConfig
from tlx.models.parametrization import lr_multipliers
from tlx.nn.config import AttentionConfig, ExecutionConfig
from tlx.optim.config import MuonConfig, OptimizerConfig
from tlx.training.state import boxed_params


def sized(name, width=128, layers=2, objective="clm", **changes):
    """(module, boxed parameters, batch) whose base is width 32 and 2 layers."""
    module, spec = make(objective, execution=ExecutionConfig(unroll=1))
    part = ParametrizationConfig(name, base_width=32, base_layers=2)
    heads = AttentionConfig(num_heads=width // 8)
    changes |= {"width": width, "num_layers": layers, "attention": heads, "parametrization": part}
    module = module.clone(model=dataclasses.replace(module.model, dropout=0.0, **changes))
    module.model.validate()
    batch = examples(objective, spec, 0)
    abstract = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in batch.items()}
    return module, boxed_params(module, abstract), batch


def drawn(module, batch):
    return parallel.unbox(
        jax.jit(lambda key: module.init(key, batch, None, None)["params"])(jax.random.key(0))
    )


def loss(module, params, batch):
    return float(jax.jit(lambda p: module.apply({"params": p}, batch, None, None)[0]["loss"].sum)(params))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mup", "completep"])
def test_the_base_is_the_standard_parametrisation(name):
    (plain, boxed, batch), (other, *_) = sized("standard", 32), sized(name, 32)
    params = drawn(plain, batch)
    assert jax.tree.all(jax.tree.map(np.array_equal, params, drawn(other, batch)))
    assert loss(plain, params, batch) == loss(other, params, batch)
    assert lr_multipliers(other.model, OptimizerConfig(), boxed) == {}


def test_four_times_the_width_starts_and_learns_as_the_table_says():
    """Kernels of the layers: half the deviation, a quarter of the rate; tables and vectors as they were."""
    module, boxed, batch = sized("mup", head=HeadConfig(tied=False))
    flat = {path: np.asarray(x) for path, x in tree.flatten(drawn(module, batch)).items()}
    found = lr_multipliers(module.model, OptimizerConfig(), boxed)
    for path, x in flat.items():
        hidden = "/blocks/" in path and path.endswith("kernel")
        assert found.get(path, 1.0) == (0.25 if hidden else 1.0), path
        if hidden:
            residual = 0.5 if path.endswith(("attention/out/kernel", "feedforward/out/kernel")) else 1.0
            assert np.std(x) == pytest.approx(0.02 / 2 * residual, rel=0.05), path
        elif path.endswith(("embedding/table", "output/kernel")):
            assert np.std(x) == pytest.approx(0.02, rel=0.05), path
    plain = dataclasses.replace(module.model, parametrization=ParametrizationConfig())
    assert module.model.block("decoder").softmax_scale == plain.block("decoder").softmax_scale


@pytest.mark.slow
def test_logits_are_divided_by_the_width():
    (narrow, *_), (wide, _, batch) = sized("standard"), sized("mup")
    params = drawn(wide, batch)
    apply = [
        jax.jit(lambda p, m=m: m.apply({"params": p}, batch, None, method="logits")) for m in (narrow, wide)
    ]
    one, two = (f(params) for f in apply)
    np.testing.assert_allclose(
        np.asarray(two)[..., :300] * 4, np.asarray(one)[..., :300], rtol=1e-5, atol=1e-6
    )


def test_each_optimizer_has_its_own_power_of_the_width():
    module, boxed, _ = sized("mup", objective="mlm")
    kernel, transform = "model/encoder/blocks/attention/query/kernel", "heads/mlm/dense/kernel"
    powers = {"adamw": (0.25, 0.25), "lion": (0.25, 0.25), "muon": (0.5, 0.25), "adafactor": (0.5, 0.5)}
    for name, expected in powers.items():
        found = lr_multipliers(module.model, OptimizerConfig(name=name), boxed)
        assert (found[kernel], found[transform]) == expected
    spectral = OptimizerConfig(name="muon", muon=MuonConfig(scale="spectral"))
    assert lr_multipliers(module.model, spectral, boxed)[kernel] == 1.0


def test_completep_divides_what_layers_add():
    """Eight layers of one kernel each add what two do."""
    deep, _, batch = sized("completep", 32, 8)
    usual, *_ = sized("mup", 32, 8)
    params = drawn(deep, batch)
    kernel = params["model"]["decoder"]["blocks"]["feedforward"]["out"]["kernel"]
    assert np.std(kernel) == pytest.approx(0.02 / 2, rel=0.05)  # sqrt(2 x base_layers), whatever the depth
    assert loss(deep, params, batch) != loss(usual, params, batch)
    with pytest.raises(ConfigError, match="'completep' with model.block_layout = 'post'"):
        sized("completep", block_layout="post")
