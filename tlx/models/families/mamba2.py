"""Mamba 2: layers of a state space alone, without attention, positions and feed-forward networks."""

import math
from collections.abc import Mapping
from typing import Any

from tlx.base.errors import ConfigError
from tlx.models.config import HeadConfig, ModelConfig
from tlx.models.families.family import (
    Family,
    FixedField,
    MappedField,
    SameField,
    WeightMapping,
    norm,
    resized,
)
from tlx.nn.config import (
    AttentionConfig,
    FeedForwardConfig,
    InitConfig,
    NormConfig,
    PositionConfig,
)

BASE = ModelConfig(
    kind="decoder",
    vocab_size=50288,
    width=768,
    num_layers=24,
    block_layout="pre",
    mixer=("state_space",),
    position=PositionConfig(kind="none"),
    # No layer reads it.
    attention=AttentionConfig(num_heads=1),
    feedforward=FeedForwardConfig(absent=True),
    norm=NormConfig(kind="rmsnorm", eps=1e-5),
    head=HeadConfig(tied=True),
    # Its class adds all layers' outputs unscaled, but for rescale_prenorm_residual.
    init=InitConfig(stddev=0.1, scale_residual=False),
)
CODESTRAL = resized(
    BASE, vocab_size=32768, width=4096, num_layers=64, state_space__num_groups=8, head__tied=False
)


def rows(config: ModelConfig) -> list[WeightMapping]:
    """Return the key table of a model."""
    path = "model/decoder/blocks/state_space"
    name = "backbone.layers.{layer}.mixer"
    part = config.state_space
    num_heads = config.block("decoder").state_heads
    inner = num_heads * part.head_dim
    outer = part.num_groups * part.state_dim
    projections = (inner, inner, outer, outer, num_heads)
    mappings = [
        WeightMapping("model/embedding/table", "backbone.embeddings.weight", "v d -> v d"),
        *norm("model/decoder/final_norm", "backbone.norm_f", bias=False),
        *norm("model/decoder/blocks/attention_norm", "backbone.layers.{layer}.norm", bias=False),
        WeightMapping(f"{path}/a_log", f"{name}.A_log"),
        WeightMapping(f"{path}/d", f"{name}.D"),
        WeightMapping(f"{path}/dt_bias", f"{name}.dt_bias"),
        WeightMapping(f"{path}/norm_scale", f"{name}.norm.weight", "(n h) -> n h"),
        WeightMapping(f"{path}/out/kernel", f"{name}.out_proj.weight", "d (n h) -> n h d"),
    ]
    if part.bias:
        mappings.append(WeightMapping(f"{path}/out/bias", f"{name}.out_proj.bias"))
    # The projections are rows of one matrix, the convolutions those of another one.
    dims = ("(n h)", "(n h)", "(g u)", "(g u)", "n")
    for index, (module, dim) in enumerate(zip(("gate", "x", "b", "c", "dt"), dims, strict=True)):
        mappings += _rows_of(f"{path}/{module}", f"{name}.in_proj", (dim, "d"), part.bias, index, projections)
    for index, (module, dim) in enumerate(zip(("x", "b", "c"), dims[1:4], strict=True)):
        convolution = f"{path}/{module}_convolution"
        sections = projections[1:4]
        mappings += _rows_of(convolution, f"{name}.conv1d", (dim, "1 w"), part.conv_bias, index, sections)
    if not config.head.tied:
        mappings.append(WeightMapping("model/output/kernel", "lm_head.weight", "v d -> v d"))
    return mappings


def _rows_of(
    path: str, name: str, dims: tuple[str, str], bias: bool, index: int, sections: tuple[int, ...]
) -> list[WeightMapping]:
    """Return the rows of a matrix that holds several modules' kernels, one below the other.

    Args:
        path: Module here.
        name: Module there, whose rows are those of all.
        dims: Dims of the kernel there: of the rows, with those of here in parentheses, and of the columns.
        bias: Whether there are biases, in the same order.
        index: Number of the module among those of the matrix.
        sections: Rows of each of them.
    """
    of_rows, of_columns = dims
    apart = of_rows.strip("()")
    last = of_columns.split()[-1]
    patterns = {"kernel": ("weight", f"{of_rows} {of_columns} -> {last} {apart}")}
    if bias:
        patterns["bias"] = ("bias", f"{of_rows} -> {apart}")
    return [
        WeightMapping(f"{path}/{parameter}", f"{name}.{tensor}", pattern, index, sections=sections)
        for parameter, (tensor, pattern) in patterns.items()
    ]


def _read_heads(values: Mapping[str, Any]) -> dict[str, Any]:
    num_heads = values.get("num_heads", 128)
    head_dim = values.get("head_dim", 64)
    inner = values.get("expand", 2) * values.get("hidden_size", 4096)
    if inner != num_heads * head_dim or inner != values.get("intermediate_size", inner):
        raise ConfigError(
            f"num_heads = {num_heads}, head_dim = {head_dim}: their product must be expand * hidden_size = {inner}"
        )
    return {"state_space.num_heads": num_heads, "state_space.head_dim": head_dim}


def _write_heads(config: ModelConfig) -> dict[str, Any]:
    num_heads = config.block("decoder").state_heads
    head_dim = config.state_space.head_dim
    expand = num_heads * head_dim / config.width
    if int(expand * config.width) != num_heads * head_dim:
        raise ConfigError(
            f"model.state_space: {num_heads} heads of {head_dim} are no multiple of width = {config.width} that a "
            "mamba2 config.json can hold (expand)"
        )
    return {
        "num_heads": num_heads,
        "head_dim": head_dim,
        "expand": int(expand) if expand == int(expand) else expand,
    }


def _read_limits(values: Mapping[str, Any]) -> dict[str, Any]:
    low, high = values.get("time_step_limit", (0.0, math.inf))
    # As files of transformers 5 write what JSON has no number for.
    high = float(high["__float__"] if isinstance(high, Mapping) else high)
    return {"state_space.dt_limits": (float(low), 0.0 if math.isinf(high) else high)}


def _write_limits(config: ModelConfig) -> dict[str, Any]:
    low, high = config.state_space.dt_limits
    # The class's default, for which JSON has no number.
    if (low, high) == (0.0, 0.0):
        return {}
    return {"time_step_limit": [low, high or {"__float__": "Infinity"}]}


FAMILY = Family(
    name="mamba2",
    citation="Dao and Gu 2024, Transformers are SSMs: Generalized Models and Efficient Algorithms Through "
    "Structured State Space Duality, ICML, arXiv:2405.21060",
    base=BASE,
    sizes={
        "130m": BASE,
        "370m": resized(BASE, width=1024, num_layers=48),
        "780m": resized(BASE, width=1536, num_layers=48),
        "1.3b": resized(BASE, width=2048, num_layers=48),
        "2.7b": resized(BASE, width=2560, num_layers=64),
        "codestral-7b": CODESTRAL,
    },
    rows=rows,
    model_type="mamba2",
    architectures={"Mamba2ForCausalLM": (), "Mamba2Model": ()},
    fields=(
        SameField("vocab_size", "vocab_size", 32768),
        SameField("hidden_size", "width", 4096),
        SameField("num_hidden_layers", "num_layers", 64),
        MappedField(("num_heads", "head_dim", "expand", "intermediate_size"), _read_heads, _write_heads),
        SameField("state_size", "state_space.state_dim", 128),
        SameField("n_groups", "state_space.num_groups", 8),
        SameField("conv_kernel", "state_space.conv_size", 4),
        SameField("use_conv_bias", "state_space.conv_bias", True),
        SameField("use_bias", "state_space.bias", False),
        SameField("chunk_size", "state_space.chunk_size", 256),
        MappedField(("time_step_limit",), _read_limits, _write_limits),
        MappedField(
            ("time_step_min", "time_step_max"),
            lambda values: {
                "state_space.dt_range": (
                    values.get("time_step_min", 0.001),
                    values.get("time_step_max", 0.1),
                )
            },
            lambda config: dict(
                zip(("time_step_min", "time_step_max"), config.state_space.dt_range, strict=True)
            ),
        ),
        FixedField("hidden_act", ("silu", "swish")),
        SameField("layer_norm_epsilon", "norm.eps", 1e-5),
        SameField("initializer_range", "init.stddev", 0.1),
        SameField("tie_word_embeddings", "head.tied", False),
    ),
    prefix="backbone.",
    copies={"lm_head.weight": "backbone.embeddings.weight"},
    renamed={r"^backbone\.embedding\.": "backbone.embeddings."},
)
