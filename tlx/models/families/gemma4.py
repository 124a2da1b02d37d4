"""Gemma 4 (text): wide heads without a window, shared keys and values, and a second table that each layer reads."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from tlx.base.errors import ConfigError
from tlx.models.config import ModelConfig
from tlx.models.families.family import (
    Family,
    FixedField,
    MappedField,
    SameField,
    WeightMapping,
    linear,
    norm,
    resized,
)
from tlx.models.families.gemma3 import CAP, windows
from tlx.models.families.llama import (
    ATTENTION_BIAS,
    COPIES,
    IGNORED,
    attention,
    common,
    feedforward,
    outside,
    size,
)
from tlx.models.families.llama import BASE as LLAMA
from tlx.models.families.rope import by_layer_type, kinds_of, parameters_of, scaling_of, windows_of
from tlx.nn.config import BlockConfig, RotaryScaling

BASE = resized(
    LLAMA,
    vocab_size=262144,
    block_layout="sandwich",
    layer_scalars=True,
    embedding__scale=True,
    position__max_length=131072,
    position__theta=1_000_000.0,
    position__local_theta=10_000.0,
    position__scaling=RotaryScaling("proportional", 1.0, rotated_fraction=0.25),
    attention__head_dim=256,
    attention__global_head_dim=512,
    attention__qk_norm=True,
    attention__value_norm=True,
    attention__scale=False,
    attention__window_pattern=windows(512),
    feedforward__activation="gelu_tanh",
    norm__eps=1e-6,
    head__tied=True,
    head__softcap=30.0,
)
# Sizes for devices: later layers have no keys, and each layer reads a table of its own.
SMALL_BASE = resized(BASE, embedding__per_layer_dim=256)
# Layers without a window have no values beside their keys.
LARGE_BASE = resized(
    BASE,
    attention__global_tied_values=True,
    attention__window_pattern=windows(1024),
    position__max_length=262144,
)


def rows(config: ModelConfig) -> list[WeightMapping]:
    """Return the key table of a model."""
    path = "model/decoder/blocks"
    name = "model.layers.{layer}"
    block = config.block("decoder")
    mappings = [
        *outside(config),
        *norm(f"{path}/attention_norm", f"{name}.input_layernorm", bias=False),
        *norm(f"{path}/attention_post_norm", f"{name}.post_attention_layernorm", bias=False),
        *norm(f"{path}/feedforward_norm", f"{name}.pre_feedforward_layernorm", bias=False),
        *norm(f"{path}/feedforward_post_norm", f"{name}.post_feedforward_layernorm", bias=False),
    ]
    if config.layer_scalars:
        mappings.append(WeightMapping(f"{path}/layer_scalar", f"{name}.layer_scalar"))
    for part, layer in block.attentions.items():
        mappings += _of_layers(_attention(f"{path}/{part}", f"{name}.self_attn", config, layer), block, part)
    for part in block.feedforwards:
        mappings += _of_layers(feedforward(f"{path}/{part}", f"{name}.mlp", config), block, part)
    if config.embedding.per_layer_dim:
        stack = "model/decoder/per_layer_inputs"
        mappings += [
            WeightMapping(
                "model/per_layer_embedding/table", "model.embed_tokens_per_layer.weight", "v d -> v d"
            ),
            *linear(f"{stack}/projection", "model.per_layer_model_projection", "(l p) d -> d l p"),
            *norm(f"{stack}/norm", "model.per_layer_projection_norm", bias=False),
            *linear(f"{path}/per_layer/gate", f"{name}.per_layer_input_gate"),
            *linear(f"{path}/per_layer/out", f"{name}.per_layer_projection"),
            *norm(f"{path}/per_layer/norm", f"{name}.post_per_layer_input_norm", bias=False),
        ]
    return mappings


def _attention(path: str, name: str, config: ModelConfig, layer: BlockConfig) -> list[WeightMapping]:
    """Return the mappings of one kind of attention, which may lack keys or values."""
    absent = []
    if layer.keys == "shared":
        absent = ["key", "value", "key_norm"]
    elif layer.attention.global_tied_values:
        absent = ["value"]
    paths = tuple(f"{path}/{part}/" for part in absent)
    return [row for row in attention(path, name, config) if not row.path.startswith(paths)]


def _of_layers(mappings: list[WeightMapping], block: BlockConfig, part: str) -> list[WeightMapping]:
    """Return the mappings of a part that perhaps not all layers have."""
    layers = block.unlike_parts.get(part, ())
    return [dataclasses.replace(row, layers=layers) for row in mappings]


def _read_layers(values: Mapping[str, Any]) -> dict[str, Any]:
    """Read windows, heads of both kinds of layers and rotary parameters."""
    num_layers = values.get("num_hidden_layers", 30)
    kinds = list(values.get("layer_types") or [])
    if not kinds:
        kinds = ["sliding_attention" if (i + 1) % 6 else "full_attention" for i in range(num_layers)]
    if kinds[-1] != "full_attention":
        raise ConfigError(
            f"config.json: layer_types ends with {kinds[-1]!r}; the last layer of gemma4_text has full_attention"
        )
    head_dim = values.get("head_dim", 256)
    kv_heads = values.get("num_key_value_heads", 4)
    is_tied = bool(values.get("attention_k_eq_v", False))
    global_head_dim, global_kv_heads = _global_heads(values, kinds, head_dim)
    full, local = by_layer_type(values)
    if scaling_of(local).kind != "none":
        scaling_of({"rope_type": f"{local['rope_type']} of layers with a window"})
    if not values.get("rope_parameters"):
        full = {"rope_type": "proportional", "partial_rotary_factor": 0.25}
    fields = windows_of(kinds, values.get("sliding_window", 512))
    any_window = any((fields["attention.window"], *fields["attention.window_pattern"]))
    return fields | {
        "attention.head_dim": head_dim,
        "attention.num_kv_heads": kv_heads,
        "attention.global_head_dim": global_head_dim,
        "attention.global_kv_heads": global_kv_heads or kv_heads,
        "attention.global_tied_values": is_tied,
        "position.theta": float(full.get("rope_theta", 1_000_000.0)),
        "position.scaling": _proportional(full),
        "position.local_theta": float(local.get("rope_theta", 10_000.0)) if any_window else 0.0,
    }


def _proportional(parameters: Mapping[str, Any]) -> RotaryScaling:
    """Convert the rotary parameters of layers without a window, where no other family has this kind."""
    known = ("rope_type", "rope_theta", "partial_rotary_factor", "factor")
    if parameters.get("rope_type") != "proportional" or set(parameters) - set(known):
        return scaling_of(parameters)
    fraction = float(parameters.get("partial_rotary_factor", 1.0))
    return RotaryScaling("proportional", float(parameters.get("factor", 1.0)), rotated_fraction=fraction)


def _global_heads(values: Mapping[str, Any], kinds: list[str], head_dim: int) -> tuple[int, int]:
    """Return size and number of key heads of layers without a window; a number of 0 is that of the others.

    They stand in keys of their own, or in the group of each such layer.
    """
    groups = values.get("per_layer_config")
    if groups is None:
        # Its class reads the number where keys are values, and nowhere else.
        kv_heads = values.get("num_global_key_value_heads") if values.get("attention_k_eq_v") else None
        return values.get("global_head_dim", 512), kv_heads or 0
    by_layer = {int(index): dict(group) for index, group in groups.items()}
    full = [index for index, kind in enumerate(kinds) if kind == "full_attention"]
    group = by_layer.get(full[-1], {})
    if any(by_layer.get(index, {}) != (group if index in full else {}) for index in range(len(kinds))) or (
        set(group) - {"head_dim", "num_key_value_heads"}
    ):
        raise ConfigError(
            "config.json: per_layer_config must give all layers of full_attention the same head_dim and "
            "num_key_value_heads, and the others nothing"
        )
    return group.get("head_dim", head_dim), group.get("num_key_value_heads", 0)


def _write_layers(config: ModelConfig) -> dict[str, Any]:
    position = config.position
    part = config.attention
    is_other = part.global_kv_heads not in (0, part.num_kv_heads)
    if is_other and not part.global_tied_values:
        raise ConfigError(
            f"model.attention.global_kv_heads = {part.global_kv_heads}: a gemma4_text config.json has another number "
            "than num_kv_heads only with global_tied_values"
        )
    return {
        "layer_types": kinds_of(config),
        "sliding_window": max(part.windows) or 512,
        "head_dim": config.block("decoder").head_dim,
        "num_key_value_heads": config.block("decoder").num_kv_heads,
        "global_head_dim": part.global_head_dim,
        "num_global_key_value_heads": part.global_kv_heads if is_other else None,
        "attention_k_eq_v": part.global_tied_values,
        "rope_parameters": {
            "full_attention": parameters_of(position.theta, position.scaling),
            "sliding_attention": parameters_of(position.local_theta or position.theta, RotaryScaling()),
        },
    }


LAYERS = MappedField(
    (
        "layer_types",
        "sliding_window",
        "head_dim",
        "num_key_value_heads",
        "global_head_dim",
        "num_global_key_value_heads",
        "per_layer_config",
        "attention_k_eq_v",
        "rope_parameters",
    ),
    _read_layers,
    _write_layers,
)


def _read_network(values: Mapping[str, Any]) -> dict[str, Any]:
    num_shared = values.get("num_kv_shared_layers", 0)
    is_wide = bool(values.get("use_double_wide_mlp", False)) and num_shared > 0
    return {"attention.shared_layers": num_shared, "feedforward.shared_multiplier": 2 if is_wide else 1}


def _write_network(config: ModelConfig) -> dict[str, Any]:
    multiplier = config.feedforward.shared_multiplier
    if multiplier > 2:
        raise ConfigError(
            f"model.feedforward.shared_multiplier = {multiplier}: a gemma4_text config.json has 1 or 2"
        )
    return {
        "num_kv_shared_layers": config.attention.shared_layers,
        "use_double_wide_mlp": multiplier == 2,
    }


def _read_table(values: Mapping[str, Any]) -> dict[str, Any]:
    dim = values.get("hidden_size_per_layer_input", 256) or 0
    vocab_size = values.get("vocab_size", 262144)
    if dim and values.get("vocab_size_per_layer_input", 262144) != vocab_size:
        raise ConfigError(
            f"config.json: vocab_size_per_layer_input = {values.get('vocab_size_per_layer_input', 262144)} must be "
            f"vocab_size = {vocab_size}"
        )
    return {"embedding.per_layer_dim": dim}


def _write_table(config: ModelConfig) -> dict[str, Any]:
    return {
        "hidden_size_per_layer_input": config.embedding.per_layer_dim,
        "vocab_size_per_layer_input": config.vocab_size,
    }


TABLE = MappedField(("hidden_size_per_layer_input", "vocab_size_per_layer_input"), _read_table, _write_table)
_OWN = ("head_dim", "num_key_value_heads", "tie_word_embeddings")


def _is_common(field: Any) -> bool:
    keys = field.keys if isinstance(field, MappedField) else (field.key,)
    return not set(keys) & set(_OWN)


FAMILY = Family(
    name="gemma4",
    citation="Google DeepMind 2026, Gemma 4, model card",
    base=BASE,
    sizes={
        "e2b": size(
            SMALL_BASE,
            35,
            1536,
            8,
            6144,
            attention__num_kv_heads=1,
            attention__window_pattern=(512,) * 4 + (0,),
            attention__shared_layers=20,
            feedforward__shared_multiplier=2,
        ),
        "e4b": size(SMALL_BASE, 42, 2560, 8, 10240, attention__num_kv_heads=2, attention__shared_layers=18),
        "12b": size(LARGE_BASE, 48, 3840, 16, 15360, attention__num_kv_heads=8, attention__global_kv_heads=1),
        "31b": size(
            LARGE_BASE, 60, 5376, 32, 21504, attention__num_kv_heads=16, attention__global_kv_heads=4
        ),
    },
    rows=rows,
    model_type="gemma4_text",
    architectures={"Gemma4ForCausalLM": (), "Gemma4TextModel": ()},
    fields=(
        *(field for field in common("hidden_activation", positions=131072) if _is_common(field)),
        SameField("tie_word_embeddings", "head.tied", True),
        ATTENTION_BIAS,
        LAYERS,
        MappedField(("num_kv_shared_layers", "use_double_wide_mlp"), _read_network, _write_network),
        TABLE,
        CAP,
        FixedField("enable_moe_block", (False,)),
        # Images alone are read from both sides.
        FixedField("use_bidirectional_attention", (None, "vision")),
    ),
    prefix="model.",
    copies=COPIES,
    # Files have keys and values of layers that share those of others, which no class reads.
    ignored=(*IGNORED, r"self_attn\.(k_proj|v_proj|k_norm|v_norm)\."),
)

# The text model of the models of texts, images and sounds. It is exported as a text model.
WITH_IMAGES = dataclasses.replace(
    FAMILY,
    nested="text_config",
    ignored=(*FAMILY.ignored, r"(^|\.)(vision_tower|embed_vision|audio_tower|embed_audio)\."),
    renamed={r"^model\.language_model\.": "model."},
)

# The one without encoders of images and sounds (12B), whose text model has no second table.
UNIFIED = dataclasses.replace(
    WITH_IMAGES,
    fields=(
        *(field for field in FAMILY.fields if field is not TABLE),
        FixedField("hidden_size_per_layer_input", (0, None)),
        MappedField(("vocab_size_per_layer_input",), lambda values: {}, lambda config: {}),
    ),
    ignored=(*FAMILY.ignored, r"(^|\.)(vision_embedder|embed_vision|embed_audio)\."),
)
