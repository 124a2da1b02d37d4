"""Config keys and values that had other names in earlier formats of run.json: the one table of them.

Saved configs (run.json, plans of ladders) are upgraded when they are read, with `upgrade`. On the command
line and in config files an old name is an error of one line that names the new one: `new_name`, `new_value`,
`new_path`.

To rename a key: rename the field, raise FORMAT in the module that writes run.json, and add the old name here
under that format. Groups have the names that they have in that format, so that a key of a group that is
renamed too stands under the group's new name. "objective:NAME" holds the keys of that objective alone, which
go before those of "objective".
"""

import re
from collections.abc import Container, Iterator, Mapping
from typing import Any

# {format that renamed them: {group: {old key: new key}}}
KEYS: dict[int, dict[str, dict[str, str]]] = {
    2: {
        "model": {
            "residual": "block_layout",
            "slots": "adapters",
        },
        "model.adapters": {
            "adapter": "bottleneck_dim",
            "adapter_attention": "bottleneck_after_attention",
            "prefix": "prefix_length",
            "prompt": "prompt_length",
            "units": "extra_ff_dim",
        },
        "model.position": {"windowed_theta": "local_theta"},
        "model.position.scaling": {
            "low": "low_freq_factor",
            "high": "high_freq_factor",
        },
        "model.attention": {
            "scale_width": "query_pre_attn_scalar",
            "windows": "window_pattern",
        },
        "model.feedforward": {
            "hidden": "ff_dim",
            "capacity": "capacity_factor",
            "balance": "router_aux_weight",
        },
        "model.embedding": {
            "factor": "width",
            "convolution": "conv_kernel_size",
        },
        "model.norm": {"first": "before_first_layer"},
        "model.recurrent": {"cell": "cell_dim"},
        "model.recurrent.characters": {"highways": "num_highways"},
        "optimizer": {
            "decay": "weight_decay_multipliers",
            "rates": "lr_multipliers",
        },
        "optimizer.schedule": {
            "final": "final_fraction",
            "decay": "cooldown",
        },
        "optimizer.adafactor": {
            "decay": "decay_exponent",
            "min_dim": "min_dim_size_to_factor",
            "clip": "clipping_threshold",
            "relative": "multiply_by_parameter_scale",
        },
        "optimizer.muon": {"steps": "ns_steps"},
        "adapt": {
            "train": "also_train",
            "layer_decay": "layer_lr_decay",
            "gradual": "gradual_unfreezing",
        },
        "checkpoint": {"at": "keep_at"},
        "data.text": {
            "lines": "one_document_per_line",
            "ratings": "rating_columns",
        },
        "data.records": {
            "group": "group_column",
            "largest": "max_set_size",
        },
        "objective": {
            # Masked objectives and those that damage a text.
            "rate": "masking_rate",
            "mask_share": "mask_token_fraction",
            "random_share": "random_token_fraction",
            "short_rate": "short_sequence_fraction",
            "poisson": "poisson_lambda",
            "permute_share": "permute_fraction",
            "rotate_share": "rotate_fraction",
            "insert_share": "insert_fraction",
            "span_share": "span_fraction",
            "start_share": "start_fraction",
            "end_share": "end_fraction",
            "geometric": "geometric_p",
            "sharing": "embedding_sharing",
            # Tasks.
            "lm_scale": "lm_loss_weight",
            "multi": "multi_label",
            "outside": "out_of_scope_label",
            "words": "label_words",
            "question_tokens": "max_question_tokens",
            "answer_tokens": "max_answer_tokens",
            "threshold": "no_answer_threshold",
            "low": "min_score",
            "high": "max_score",
            # Few-shot evaluation.
            "between": "separator",
            "by": "normalization",
            "neutral": "unconditional_prompt",
            "length": "max_length",
        },
        "objective:bart": {"mask_share": "mask_fraction"},
        "objective:mbart": {"mask_share": "mask_fraction"},
        "objective.parts[]": {
            "scale": "loss_weight",
            "length": "sequence_length",
            "words": "label_words",
        },
        "objective.denoisers[]": {
            "density": "noise_density",
            "mean_length": "mean_span_length",
        },
        "ladder": {
            "rate": "learning_rate",
            "rate_width": "lr_base_width",
            "rate_power": "lr_width_power",
            "rate_tokens": "lr_base_tokens",
            "rate_data_power": "lr_tokens_power",
            "warmup": "warmup_fraction",
            "cool": "cooldown_fraction",
            "least_steps": "min_steps",
            "hidden_multiple": "ff_dim_multiple",
            "hidden_ratio": "ff_dim_ratio",
            "aspect": "aspect_ratio",
            "span": "size_span",
            "ratio": "budget_ratio",
        },
    },
}

# {format that renamed them: {path of the key: {old value: new value}}}
VALUES: dict[int, dict[str, dict[str, str]]] = {
    2: {
        "model.position.kind": {
            "bucketed": "relative_bias",
            "relative": "relative_sinusoidal",
        },
        "objective.pooling": {"place": "token"},
    },
}

# Groups that have the keys of another one.
_ALIKE = {
    "objective.teacher_model": "model",
    "objective.parts[].objective": "objective",
    "data.mixture[]": "data",
    "data.records.sets[]": "data.records",
}


def upgrade(values: Mapping[str, Any], saved_format: int, group: str = "") -> dict[str, Any]:
    """Returns a copy of a saved config with the keys and values of today.

    Keys that no table knows stay as they are; an objective from outside tlx ("package.module:attr") has keys
    of its own, which all stay.

    Args:
        values: the config as it was saved, nested mappings and lists.
        saved_format: the format of the file that holds it.
        group: what `values` is; "" for the config of a run, "ladder" for that of a ladder.
    """
    upgraded: Any = values
    for renaming in sorted(KEYS):
        if renaming > saved_format:
            upgraded = _renamed(upgraded, group, renaming, "")
    return dict(upgraded)


def new_name(path: str, key: str, legal: Container[str]) -> str | None:
    """Returns today's name of an old key of the group at `path`, if it is among the `legal` ones.

    path: as messages have it, such as "config.model", "config.run.objective" or "config.data.mixture[0]".
    """
    for group in _groups(_canonical(path)):
        new = group.get(key)
        if new is not None and new in legal:
            return new
    return None


def new_value(path: str, value: Any) -> str | None:
    """Returns today's name of an old value of the key at `path`."""
    for table in VALUES.values():
        new = table.get(_canonical(path), {}).get(value) if isinstance(value, str) else None
        if new is not None:
            return new
    return None


def new_path(path: str) -> str | None:
    """Returns today's dotted path of a path with an old name in it, None where there is none.

    Old names that objectives call differently get the name that most of them have.
    """
    parts: list[str] = []
    for key in path.split("."):
        name, index, rest = key.partition("[")
        old = next((group[name] for group in _groups(_canonical(".".join(parts))) if name in group), name)
        parts.append(old + index + rest)
    new = ".".join(parts)
    return new if new != path else None


def new_paths_of(key: str) -> list[tuple[str, str]]:
    """Returns (old path, new path) of every group that had a key of this name."""
    found = []
    for table in KEYS.values():
        for name, group in table.items():
            if key in group:
                shown = name.partition(":")[0]
                found.append((f"{shown}.{key}", f"{shown}.{group[key]}"))
    return list(dict.fromkeys(found))


def _groups(group: str) -> Iterator[Mapping[str, str]]:
    """Renamed keys of a group, those that all objectives share before those of one."""
    for table in KEYS.values():
        if group in table:
            yield table[group]
        for name, keys in table.items():
            if name.startswith(group + ":"):
                yield keys


def _canonical(path: str) -> str:
    """A group's path as the tables have it."""
    path = re.sub(r"\[\d+\]", "[]", path)
    path = re.sub(r"^(config|run)(\.|$)", "", path)
    path = re.sub(r"^run(\.|$)", "", path)
    for group, like in _ALIKE.items():
        if path == group or path.startswith(group + "."):
            return _canonical(like + path[len(group) :])
    return path


def _renamed(values: Mapping[str, Any], group: str, renaming: int, objective: str) -> dict[str, Any]:
    """The values of a group after one renaming. `objective`: the name of the objective that they are in."""
    if group == "objective":
        objective = str(values.get("name", ""))
        if ":" in objective:
            return dict(values)
    table = KEYS[renaming]
    keys = table.get(group, {}) | table.get(f"{group}:{objective}", {})
    result = {}
    for key, value in values.items():
        key = keys.get(key, key)
        inner = f"{group}.{key}" if group else key
        result[key] = _renamed_value(value, _ALIKE.get(inner, inner), renaming, objective)
    return result


def _renamed_value(value: Any, path: str, renaming: int, objective: str) -> Any:
    if isinstance(value, Mapping):
        return _renamed(value, path, renaming, objective)
    if isinstance(value, list | tuple):
        inner = _ALIKE.get(f"{path}[]", f"{path}[]")
        items = (
            _renamed(item, inner, renaming, objective) if isinstance(item, Mapping) else item
            for item in value
        )
        return type(value)(items)
    if isinstance(value, str):
        return VALUES.get(renaming, {}).get(path, {}).get(value, value)
    return value
