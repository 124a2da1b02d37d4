"""T5Gemma: two stacks of Gemma 2's layers, with cross-attention between norms in the decoder."""

from collections.abc import Mapping
from typing import Any

from tlx.models.config import ModelConfig
from tlx.models.families.family import Family, MappedField, SameField, WeightMapping, norm, resized
from tlx.models.families.gemma import ATTENTION_CAP, GEMMA2, GEMMA2_BASE, OUTPUT_CAP
from tlx.models.families.llama import IGNORED, attention, feedforward, size
from tlx.models.families.rope import windows_of

BASE = resized(
    size(GEMMA2_BASE, 26, 2304, 8, 9216, attention__num_kv_heads=4),
    kind="encoder_decoder",
    embedding__encoder_table=True,
    attention__wide_encoder=True,
)


def _stack(side: str, config: ModelConfig) -> list[WeightMapping]:
    """Return the mappings of one stack; `side` is "encoder" or "decoder"."""
    path = f"model/{side}/blocks"
    name = f"model.{side}.layers.{{layer}}"
    table = "model/encoder_embedding/table" if side == "encoder" else "model/embedding/table"
    rows = [
        WeightMapping(table, f"model.{side}.embed_tokens.weight", "v d -> v d"),
        *norm(f"model/{side}/final_norm", f"model.{side}.norm", bias=False),
        *attention(f"{path}/attention", f"{name}.self_attn", config),
        *feedforward(f"{path}/feedforward", f"{name}.mlp", config),
        *norm(f"{path}/attention_norm", f"{name}.pre_self_attn_layernorm", bias=False),
        *norm(f"{path}/attention_post_norm", f"{name}.post_self_attn_layernorm", bias=False),
        *norm(f"{path}/feedforward_norm", f"{name}.pre_feedforward_layernorm", bias=False),
        *norm(f"{path}/feedforward_post_norm", f"{name}.post_feedforward_layernorm", bias=False),
    ]
    if side == "decoder":
        rows += attention(f"{path}/cross_attention", f"{name}.cross_attn", config)
        rows += norm(f"{path}/cross_norm", f"{name}.pre_cross_attn_layernorm", bias=False)
        rows += norm(f"{path}/cross_post_norm", f"{name}.post_cross_attn_layernorm", bias=False)
    return rows


def rows(config: ModelConfig) -> list[WeightMapping]:
    """Return the key table of a model; norm scales are stored as an offset from 1 in both formats."""
    mappings = [*_stack("encoder", config), *_stack("decoder", config)]
    if not config.head.tied:
        mappings.append(WeightMapping("model/output/kernel", "lm_head.out_proj.weight", "v d -> v d"))
    return mappings


def _read_windows(values: Mapping[str, Any]) -> dict[str, Any]:
    layers = max(values.get("num_hidden_layers", 26), values.get("encoder_layers") or 26)
    kinds = values.get("layer_types") or [
        "full_attention" if i % 2 else "sliding_attention" for i in range(layers)
    ]
    return windows_of(kinds, values.get("sliding_window", 4096) or 0)


def _write_windows(config: ModelConfig) -> dict[str, Any]:
    windows = config.attention.windows
    layers = max(config.num_layers, config.decoder_layers)
    kinds = ["sliding_attention" if windows[i % len(windows)] else "full_attention" for i in range(layers)]
    return {"layer_types": kinds, "sliding_window": max(windows) or None}


# Gemma 2's fields whose meaning is another one for two stacks.
_CHANGED = ("num_hidden_layers", "layer_types", "attn_logit_softcapping", "final_logit_softcapping")


def _is_same(field: Any) -> bool:
    keys = field.keys if isinstance(field, MappedField) else (field.key,)
    return not set(keys) & {*_CHANGED, "hidden_act", "use_bidirectional_attention"}


FAMILY = Family(
    name="t5gemma",
    citation="Zhang et al. 2025, Encoder-Decoder Gemma: Improving the Quality-Efficiency Trade-Off via Adaptation, "
    "arXiv:2504.06225",
    base=BASE,
    sizes={"2b-2b": BASE, "9b-9b": size(BASE, 42, 3584, 16, 14336, attention__num_kv_heads=8)},
    rows=rows,
    model_type="t5gemma",
    architectures={"T5GemmaForConditionalGeneration": (), "T5GemmaModel": ()},
    fields=(
        *(field for field in GEMMA2.fields if _is_same(field)),
        SameField("encoder_layers", "num_layers", 26),
        SameField("num_hidden_layers", "num_decoder_layers", 26),
        MappedField(("layer_types", "sliding_window"), _read_windows, _write_windows),
        MappedField(
            ("dropout_rate",),
            lambda values: dict.fromkeys(("dropout", "feedforward.dropout"), values.get("dropout_rate", 0.0)),
            lambda config: {"dropout_rate": config.dropout},
        ),
        ATTENTION_CAP,
        OUTPUT_CAP,
    ),
    prefix="model.",
    copies={"lm_head.out_proj.weight": "model.decoder.embed_tokens.weight"},
    ignored=IGNORED,
    stacks=True,
)
