"""The page of model families, tlx/models/families/README.md, from the tables of families and of their tests.

    python -m tests.families_page      writes the page

tests/models/families/test_page.py fails where the page is older than the tables.
"""

import pathlib

from tests.hub.cases import CASES
from tests.hub.releases_since import RELEASES
from tests.models.families.test_sizes import EXACT, PRINTED, SINCE, rows
from tlx.models.config import ModelConfig
from tlx.models.families import MODEL_TYPES, TABLE, Family

PAGE = pathlib.Path(__file__).parents[1] / "tlx" / "models" / "families" / "README.md"
HEAD = """# Model families

Each family is one file of data over shared parts: published sizes, the keys of config.json, the names of tensors. The
page is generated from these tables and from those of the tests: `python -m tests.families_page`.

- Sizes: parameters, tied ones once, equal to those of the class in `transformers` (`pytest
  tests/models/families/test_sizes.py`); "about": as printed in the paper.
- Cases: small models with drawn weights whose outputs are within 1e-5 of those of the class, and whose export
  loads in the class with no missing and no unexpected key (`pytest tests/hub/test_live.py -m "long or not
  long"`, with the extra `hf`; without torch against recorded outputs, `pytest tests/hub/test_recorded.py`).
- Releases: config.json files that are read (`pytest tests/hub/test_config_file.py`): how many, and how many of
  them were compared with a public copy; the others are recalled.

Not here: mixtures of experts but Mixtral (Qwen3-MoE, gpt-oss, DeepSeek, Llama 4, GLM-4.5). What a family's class
can do and tlx cannot is refused with the key of config.json that asks for it: projections of OPT-350m, ALiBi of
Falcon-RW, `clip_qkv` of MPT, scaled rotations of layers with a window, experts of Gemma 4's 26B-A4B. Of the models of
texts and images of Gemma 3 and 4 (`gemma3`, `gemma4`, `gemma4_unified`) the text model is read.
"""


def position(config: ModelConfig) -> str:
    """Describe the position scheme."""
    part = config.position
    if part.kind == "none":
        return "no positions"
    if part.kind != "rotary":
        return f"{part.kind.replace('_', ' ')} positions"
    words = ["rotary positions"]
    if part.rotary_fraction != 1:
        words.append(f"of {part.rotary_fraction:g} of a head")
    if part.rotary_layout == "interleaved":
        words.append("in neighbouring pairs")
    if part.rotary_pattern:
        words.append(f"on {sum(part.rotary_pattern)} of {len(part.rotary_pattern)} layers")
    if part.scaling.kind != "none":
        words.append(f"scaled by {part.scaling.kind}")
    return " ".join(words)


def attention(config: ModelConfig) -> list[str]:
    """Describe what attention has beyond plain heads."""
    part = config.attention
    parts = []
    if part.num_kv_heads not in (0, part.num_heads):
        parts.append("grouped keys" if part.num_kv_heads > 1 else "one key head")
    if part.qk_norm:
        scope = {
            "head": "per head",
            "each_head": "per head, each with its scale",
            "all_heads": "over all heads",
        }
        parts.append(f"queries and keys normalised {scope[part.qk_norm_scope]}")
    if part.window_pattern:
        local = sum(map(bool, part.window_pattern))
        parts.append(f"windows of {max(part.window_pattern)} on {local} of {len(part.window_pattern)} layers")
    elif part.window:
        parts.append(f"windows of {part.window}")
    if part.value_norm:
        parts.append("values normalised")
    if part.global_head_dim:
        parts.append(f"heads of {part.global_head_dim} without a window")
    if part.softcap:
        parts.append(f"attention logits capped at {part.softcap:g}")
    return parts


def of_some_sizes(family: Family) -> list[str]:
    """Describe what some sizes of a family have, and its base has not."""
    parts = {
        "later layers without keys": lambda config: config.attention.shared_layers,
        "a table that each layer reads": lambda config: config.embedding.per_layer_dim,
        "values that are keys": lambda config: config.attention.global_tied_values,
    }
    named = []
    for words, has in parts.items():
        owners = [size for size, config in family.sizes.items() if has(config)]
        if owners:
            named.append(f"{words} ({', '.join(owners)})")
    return named


def features(config: ModelConfig) -> str:
    """Describe the base model of a family in a line."""
    if config.kind == "bilstm":
        return "two-directional LSTMs over characters"
    layout = {
        "pre": "norms before each part",
        "post": "norms after each sum",
        "parallel": "parallel parts with two norms",
        "parallel_shared": "parallel parts with one norm",
        "sandwich": "norms before and after each part",
        "output": "norms after each part",
        "evolved": "the Evolved Transformer's cells",
    }
    norm = {"rmsnorm": "RMSNorm", "layernorm": "LayerNorm", "affine": "NoNorm"}[config.norm.kind]
    gated = "gated " if config.feedforward.gated else ""
    parts = [
        config.kind.replace("_", "-"),
        f"{norm}, {layout[config.block_layout]}",
        position(config),
    ]
    mixers = config.block("decoder").mixers
    if "attention" in mixers:
        parts += attention(config)
    if "state_space" in mixers:
        parts.append("state spaces" if len(mixers) == 1 else "state spaces and attention")
    if not config.feedforward.absent:
        parts.append(f"{gated}{config.feedforward.activation.replace('_', ' ')}")
    if config.bottleneck.width:
        networks = config.bottleneck.num_feedforwards
        parts.append(f"{networks} feed-forward networks between bottlenecks of {config.bottleneck.width}")
    if config.feedforward.num_experts:
        parts.append(f"{config.feedforward.num_experts} experts")
    if config.residual_multiplier != 1:
        parts.append("factors at embedding, stream, attention and logits")
    if config.head.softcap:
        parts.append(f"logits capped at {config.head.softcap:g}")
    return "; ".join(parts)


def sizes(family: Family) -> str:
    """Return the sizes with the parameters that the tests count."""
    counted = {}
    for name, size, _, number in reversed([*rows(EXACT), *rows(SINCE)]):
        if name == family.name:
            counted[size] = f"{int(number):,}"
    for name, size, number in rows(PRINTED):
        if name == family.name:
            counted[size] = f"about {float(number):,.0f}"
    return ", ".join(f"{size} ({counted[size]})" if size in counted else size for size in family.sizes)


def checked(family: Family) -> str:
    """Return the cases and the number of releases of a family's classes."""
    if not family.model_type:
        return "no class in `transformers`"
    cases = [name for name, case in CASES.items() if case.architecture in family.architectures]
    # Of the classes around a text model too.
    releases = [
        release
        for release in RELEASES.values()
        if MODEL_TYPES.load(release.model_type).model_type == family.model_type
    ]
    copies = sum(bool(release.copy) for release in releases)
    named = f"cases {', '.join(cases)}" if cases else "no case"
    return f"{named}; releases: {len(releases)}, of which {copies} from copies"


def page() -> str:
    """Return the page in Markdown."""
    types = {MODEL_TYPES[model_type]: model_type for model_type in MODEL_TYPES}
    lines = [HEAD, "| family | `model_type` | base model | sizes | checked |", "|---|---|---|---|---|"]
    for name in sorted(TABLE):
        family: Family = TABLE.load(name)
        model_type = types.get(TABLE[name], family.model_type)
        kind = f"`{model_type}`" if model_type else ""
        cells = (
            f"{name}: {family.citation.replace('|', '/')}",
            kind,
            "; ".join((features(family.base), *of_some_sizes(family))),
            sizes(family),
            checked(family),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
