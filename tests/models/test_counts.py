"""FLOPs in closed form against the step's jaxpr, and against the compiler's own count."""

import dataclasses

import jax
import pytest

from tests.train.shapes import BATCH, LENGTH, OBJECTIVES, examples, make
from tlx import parallel
from tlx.base.tree import num_params
from tlx.models.counts import Shape, model_flops, nonembedding_params
from tlx.models.flops import matmul_flops
from tlx.nn.config import AttentionConfig, ExecutionConfig, FeedForwardConfig
from tlx.nn.embed import EmbeddingConfig
from tlx.train import carry as carries
from tlx.train.state import boxed_params

# Changes of a model's config that change its products.
FEATURES = {
    "clm": [
        {"feedforward": FeedForwardConfig(gated=True, hidden=80)},
        {"attention": AttentionConfig(num_heads=4, num_kv_heads=2, head_dim=16, qk_norm=True)},
        {"residual": "parallel"},
        {"residual": "sandwich"},
    ],
    "mlm": [
        {"embedding": EmbeddingConfig(factor=16, num_types=2), "share_layers": True},
        {"attention": AttentionConfig(num_heads=4, windows=(8, 0))},
    ],
    "span_corruption": [{"num_layers": 4, "num_decoder_layers": 1}],
    "plm": [],
}
CASES = [(name, change) for name in OBJECTIVES for change in ({}, *FEATURES[name])]


def traced(module, batch):
    """(forward, training) FLOPs of the loss and its gradient."""
    params = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), parallel.unbox(boxed_params(module, batch))
    )
    rows = next(iter(batch.values())).shape[0]

    def loss(params, batch):
        carry = carries.initial_carry(module, rows)
        return module.apply({"params": params}, batch, carry, None)[0]["loss"].sum

    return (matmul_flops(loss, params, batch), matmul_flops(jax.grad(loss), params, batch)), (loss, params)


def changed(objective, change, **execution):
    module, spec = make(objective, execution=ExecutionConfig(unroll=1, **execution))
    module = module.clone(model=dataclasses.replace(module.model, **change))
    batch = {n: jax.ShapeDtypeStruct(x.shape, x.dtype) for n, x in examples(objective, spec, 0).items()}
    return module, batch


def shape_of(objective, batch):
    decoder = batch["decoder_tokens"].shape[1] if objective == "span_corruption" else 0
    targets = batch["targets"].shape[1] if "target_positions" in batch else 0
    return Shape(BATCH, LENGTH, decoder, targets, 16 if objective == "plm" else 0)


@pytest.mark.parametrize(("objective", "change"), CASES, ids=[f"{o}-{i}" for i, (o, _) in enumerate(CASES)])
def test_the_formula_is_the_jaxprs_count(objective, change):
    module, batch = changed(objective, change)
    counted, _ = traced(module, batch)
    formula = model_flops(module.model, shape_of(objective, batch), objective == "mlm")
    assert tuple(formula) == counted


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_nonembedding_parameters_are_the_kernels_of_the_layers(objective):
    module, batch = changed(objective, {})
    params = parallel.unbox(boxed_params(module, batch))
    leaves = jax.tree_util.tree_leaves_with_path(params["model"])
    kernels = [leaf for path, leaf in leaves if "blocks" in str(path) and "kernel" in str(path)]
    assert nonembedding_params(module.model) == num_params(kernels)


@pytest.mark.slow
def test_the_compilers_count_is_within_a_percent_at_width_768():
    """XLA counts elementwise work too; of a scan it would count the body once, so layers are unrolled."""
    module, _ = changed("clm", {"width": 768, "num_layers": 2, "attention": AttentionConfig(num_heads=12)})
    execution = ExecutionConfig(unroll=0)
    module = module.clone(
        model=dataclasses.replace(module.model, execution=execution, dropout=0.0, vocab_size=8192)
    )
    shape = (4, 128)
    batch = {
        name: jax.ShapeDtypeStruct(shape, "float32" if name == "weights" else "int32")
        for name in ("tokens", "targets", "weights", "positions", "segments")
    }
    (_, training), (loss, params) = traced(module, batch)
    assert training == model_flops(module.model, Shape(*shape)).training
    analysis = jax.jit(jax.grad(loss)).lower(params, batch).compile().cost_analysis()
    analysis = analysis[0] if isinstance(analysis, list) else analysis
    assert analysis["flops"] == pytest.approx(training, rel=0.01)
