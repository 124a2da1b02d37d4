"""FLOPs in closed form against the step's jaxpr, and against the compiler's own count."""

import dataclasses
import math

import jax
import pytest

from tests.tiers import tiers
from tests.training.shapes import BATCH, LENGTH, OBJECTIVES, VOCAB, examples, make
from tlx import parallel
from tlx.models.config import HeadConfig
from tlx.models.families import TABLE as FAMILIES
from tlx.models.families.family import replaced
from tlx.models.flops_formula import BatchShape, model_flops, nonembedding_params
from tlx.models.flops_traced import matmul_flops
from tlx.nn.characters import CharacterConfig
from tlx.nn.config import (
    AttentionConfig,
    BottleneckConfig,
    ExecutionConfig,
    FeedForwardConfig,
    PositionConfig,
    StateSpaceConfig,
)
from tlx.nn.embed import EmbeddingConfig
from tlx.optim.leaves import describe
from tlx.training import carry as carries
from tlx.training.state import boxed_params

# Changes of a model's config that change its products.
FEATURES = {
    "clm": [
        {"feedforward": FeedForwardConfig(gated=True, ff_dim=80)},
        {"attention": AttentionConfig(num_heads=4, num_kv_heads=2, head_dim=16, qk_norm=True)},
        {"block_layout": "parallel"},
        {"block_layout": "sandwich"},
        {"feedforward": FeedForwardConfig(gated=True, ff_dim=80, bias=False, num_experts=4)},
        {"feedforward": FeedForwardConfig(bias=False, num_experts=4, capacity_factor=1.25)},
        {
            "mixer": ("state_space", "attention", "attention"),
            "num_layers": 4,
            "state_space": StateSpaceConfig(num_heads=6, head_dim=4, state_dim=5, num_groups=3, chunk_size=6),
        },
    ],
    "mlm": [
        {"embedding": EmbeddingConfig(width=16, num_types=2), "share_layers": True},
        {"attention": AttentionConfig(num_heads=4, window_pattern=(8, 0))},
        {
            "block_layout": "post",
            "bottleneck": BottleneckConfig(width=8, attention_input="stream", num_feedforwards=2),
            "embedding": EmbeddingConfig(width=16, neighbors=True),
            "head": HeadConfig(half_tied=True),
        },
    ],
    "span_corruption": [
        {"num_layers": 4, "num_decoder_layers": 1, "source_encoder_layers": 3},
        {"block_layout": "evolved", "position": PositionConfig(kind="sinusoidal")},
    ],
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
        terms = module.apply({"params": params}, batch, carry, None)[0]
        return sum(term.loss_weight * term.sum for term in terms.values() if term.loss_weight)

    return (matmul_flops(loss, params, batch), matmul_flops(jax.grad(loss), params, batch)), (loss, params)


def changed(objective, change, **execution):
    module, spec = make(objective, execution=ExecutionConfig(unroll=1, **execution))
    module = module.clone(model=dataclasses.replace(module.model, **change))
    batch = {n: jax.ShapeDtypeStruct(x.shape, x.dtype) for n, x in examples(objective, spec, 0).items()}
    return module, batch


def shape_of(objective, batch):
    decoder = batch["decoder_tokens"].shape[1] if objective == "span_corruption" else 0
    targets = batch["targets"].shape[1] if "target_positions" in batch else 0
    characters = batch["characters"].shape[2] if "characters" in batch else 0
    return BatchShape(BATCH, LENGTH, decoder, targets, 16 if objective == "plm" else 0, characters)


@pytest.mark.parametrize(
    ("objective", "change"),
    tiers(CASES, quick=CASES[::4]),
    ids=[f"{o}-{i}" for i, (o, _) in enumerate(CASES)],
)
def test_the_formula_is_the_jaxprs_count(objective, change):
    module, batch = changed(objective, change)
    counted, _ = traced(module, batch)
    formula = model_flops(module.model, shape_of(objective, batch), objective == "mlm")
    assert tuple(formula) == counted


def tiny(base):
    """A family's model with every feature that it has, at width 32."""
    part = base.attention
    grouped = part.num_kv_heads and part.num_kv_heads < part.num_heads
    wide = part.head_dim and part.head_dim * part.num_heads != base.width
    changes = {"width": 32, "num_layers": max(2, len(part.window_pattern)), "vocab_size": VOCAB.size}
    changes |= {"num_decoder_layers": 1 if base.kind == "encoder_decoder" else 0, "dropout": 0.0}
    changes |= {"attention.num_heads": 4, "attention.num_kv_heads": 2 if grouped else 0}
    changes |= {"attention.head_dim": 16 if wide else 0}
    changes |= {"feedforward.ff_dim": 0 if base.block_layout == "evolved" else 48}
    changes |= {
        "attention.window": part.window and 8,
        "attention.window_pattern": tuple(w and 8 for w in part.window_pattern),
    }
    changes |= {"embedding.width": 16 if base.embedding.width else 0, "position.max_length": 64}
    changes |= {"feedforward.num_experts": min(4, base.feedforward.num_experts)}
    if base.kind == "bilstm":
        characters = CharacterConfig(width=4, filters=((1, 8), (3, 16)), num_highways=2)
        changes |= {"recurrent.cell_dim": 24, "recurrent.characters": characters}
    if part.global_head_dim:
        # Features of some sizes too: a period that has keys, and one that shares them.
        changes |= {"num_layers": 2 * len(part.window_pattern), "attention.global_head_dim": 24}
        changes |= {"attention.global_kv_heads": 1, "attention.global_tied_values": True}
        changes |= {"attention.shared_layers": len(part.window_pattern), "feedforward.shared_multiplier": 2}
        changes |= {"embedding.per_layer_dim": 8}
    if base.embedding.cutoffs:
        changes |= {"embedding.cutoffs": (20, 50), "embedding.divisor": 2}
    changes |= {"execution": ExecutionConfig(unroll=1)}
    return replaced(base, changes)


OBJECTIVE_OF = {
    "encoder": "mlm",
    "decoder": "clm",
    "encoder_decoder": "span_corruption",
    "two_stream": "plm",
    "bilstm": "bilm",
}


# One of each shape, and those whose layers are unlike.
QUICK = (
    "bert",
    "deberta",
    "elmo",
    "gpt2",
    "llama",
    "mixtral",
    "bloom",
    "olmo3",
    "bart",
    "t5",
    "transformer-xl",
    "xlnet",
)


@pytest.mark.slow
@pytest.mark.parametrize("name", tiers(FAMILIES, quick=QUICK))
def test_the_formula_counts_every_familys_features(name):
    model = tiny(FAMILIES.load(name).base)
    objective = OBJECTIVE_OF[model.kind]
    module, batch = changed(objective, {})
    module = module.clone(model=model)
    if model.position.segment_relative:
        batch |= {"types": batch["segments"]}
    counted, _ = traced(module, batch)
    assert tuple(model_flops(model, shape_of(objective, batch), objective == "mlm")) == counted


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_nonembedding_parameters_are_the_kernels_of_the_layers(objective):
    module, batch = changed(objective, {})
    assert nonembedding_params(module.model) == kernels(module, batch)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["deberta", "deberta-v2", "gemma4", "mixtral", "elmo", "transformer-xl", "mamba2"]
)
def test_nonembedding_parameters_of_families(name):
    model = tiny(FAMILIES.load(name).base)
    module, batch = changed(OBJECTIVE_OF[model.kind], {})
    assert nonembedding_params(model) == kernels(module.clone(model=model), batch)


def kernels(module, batch):
    """Parameters of all matrices of the layers."""
    leaves = describe(boxed_params(module, batch)).values()
    return sum(leaf.layers * math.prod(leaf.shape) for leaf in leaves if leaf.layers and leaf.is_matrix)


@pytest.mark.parametrize("objective", tiers(OBJECTIVES, slow=["span_corruption"]))
def test_the_compilers_count_is_within_a_percent_at_width_768(objective):
    """XLA counts elementwise work too; of a scan it would count the body once, so layers are unrolled."""
    heads = AttentionConfig(num_heads=12)
    module, spec = make(objective, 128, ExecutionConfig(unroll=0))
    change = {"width": 768, "attention": heads, "dropout": 0.0, "vocab_size": 8192}
    module = module.clone(model=dataclasses.replace(module.model, **change))
    batch = {n: jax.ShapeDtypeStruct(x.shape, x.dtype) for n, x in examples(objective, spec, 0).items()}
    (_, training), (loss, params) = traced(module, batch)
    shape = shape_of(objective, batch)._replace(length=128)
    assert training == model_flops(module.model, shape, objective == "mlm").training
    analysis = jax.jit(jax.grad(loss)).lower(params, batch).compile().cost_analysis()
    analysis = analysis[0] if isinstance(analysis, list) else analysis
    assert analysis["flops"] == pytest.approx(training, rel=0.01)
