"""Config keys and values that had other names in earlier formats of run.json; the only table of them.

Saved configs (run.json, plans of ladders) are converted by `upgrade` when they are read. On the command line
and in config files an old name is an error of one line with the new name: `new_name`, `new_value`,
`new_path`.

To rename a key: rename the field, raise FORMAT in the module that writes run.json, and add the old name here
under that format. Groups are listed by their name in that format, so a key of a group that is renamed too
stands under the new name of the group. "objective:NAME" holds keys of that objective alone, which take
precedence over those of "objective".
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
            # Objectives that mask or corrupt text.
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
            "threshold": "null_score_diff_threshold",
            "no_answer_threshold": "null_score_diff_threshold",
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

# Groups with the same keys as another group.
_SAME_KEYS = {
    "objective.teacher_model": "model",
    "objective.parts[].objective": "objective",
    "data.mixture[]": "data",
    "data.records.sets[]": "data.records",
}


def upgrade(values: Mapping[str, Any], saved_format: int, group: str = "") -> dict[str, Any]:
    """Return a copy of a saved config with the current keys and values.

    Keys that are in no table are left as they are, and so are all keys of an objective from outside tlx
    ("package.module:attr").

    Args:
        values: The config as it was saved, nested mappings and lists.
        saved_format: Format of the file that holds it.
        group: Kind of config: "" for that of a run, "ladder" for that of a ladder.

    Returns:
        The config in the current format.
    """
    upgraded: Any = _with_null_score_diff(values)
    for renaming in sorted(KEYS):
        if renaming > saved_format:
            upgraded = _renamed(upgraded, group, renaming, "")
    return _with_asked_trackers(dict(upgraded)) if group == "" else dict(upgraded)


def new_name(path: str, key: str, legal: Container[str]) -> str | None:
    """Return the current name of an old key, if it is a legal key of its group.

    Args:
        path: Dotted key of the group as in messages, such as "config.model", "config.run.objective" or
            "config.data.mixture[0]".
        key: The old key.
        legal: Keys of the group.

    Returns:
        The current name; None where the key was not renamed.
    """
    for group in _groups(_canonical(path)):
        new = group.get(key)
        if new is not None and new in legal:
            return new
    return None


def new_value(path: str, value: Any) -> str | None:
    """Return the current name of an old value of the key at `path`; None where it was not renamed."""
    for table in VALUES.values():
        values = table.get(_canonical(path), {})
        if isinstance(value, str) and value in values:
            return values[value]
    return None


def new_path(path: str) -> str | None:
    """Return the current form of a dotted path with an old name in it; None where there is none.

    An old name that objectives renamed differently gets the name that most of them use.
    """
    names: list[str] = []
    for key in path.split("."):
        old, bracket, index = key.partition("[")
        groups = _groups(_canonical(".".join(names)))
        name = next((group[old] for group in groups if old in group), old)
        names.append(name + bracket + index)
    new = ".".join(names)
    return new if new != path else None


def new_paths_of(key: str) -> list[tuple[str, str]]:
    """Return pairs (old path, new path) of all groups that had a key of this name."""
    paths: list[tuple[str, str]] = []
    for table in KEYS.values():
        for name, group in table.items():
            if key in group:
                shown = name.partition(":")[0]
                paths.append((f"{shown}.{key}", f"{shown}.{group[key]}"))
    return list(dict.fromkeys(paths))


def _with_asked_trackers(values: dict[str, Any]) -> dict[str, Any]:
    """Replace log.tensorboard = True, of a config from before it was an error without a writer, by None.

    It was the default and meant "where a writer is installed", as None does now. Such a config has no key
    log.samples, which is as old as the new meaning.
    """
    log = values.get("log")
    if isinstance(log, Mapping) and log.get("tensorboard") is True and "samples" not in log:
        values["log"] = {**log, "tensorboard": None}
    return values


def _with_null_score_diff(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Replace the threshold of "no answer" by null_score_diff_threshold, which has the other sign."""
    objective = values.get("objective")
    if not isinstance(objective, Mapping) or objective.get("name") != "question_answering":
        return values
    renamed = dict(objective)
    for old in ("threshold", "no_answer_threshold"):
        if old in renamed:
            renamed["null_score_diff_threshold"] = -renamed.pop(old)
    return {**values, "objective": renamed}


def _groups(group: str) -> Iterator[Mapping[str, str]]:
    """Renamed keys of a group: first those of all objectives, then those of single objectives."""
    for table in KEYS.values():
        if group in table:
            yield table[group]
        for name, keys in table.items():
            if name.startswith(group + ":"):
                yield keys


def _canonical(path: str) -> str:
    """Path of a group as in the tables: without indices and prefixes of messages."""
    path = re.sub(r"\[\d+\]", "[]", path)
    path = re.sub(r"^(config|run)(\.|$)", "", path)
    path = re.sub(r"^run(\.|$)", "", path)
    for group, like in _SAME_KEYS.items():
        if path == group or path.startswith(group + "."):
            return _canonical(like + path[len(group) :])
    return path


def _renamed(values: Mapping[str, Any], group: str, renaming: int, objective: str) -> dict[str, Any]:
    """Values of a group after the renaming of one format; `objective` names the objective they belong to."""
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
        result[key] = _renamed_value(value, _SAME_KEYS.get(inner, inner), renaming, objective)
    return result


def _renamed_value(value: Any, path: str, renaming: int, objective: str) -> Any:
    """One value at `path` after the renaming of one format."""
    if isinstance(value, Mapping):
        return _renamed(value, path, renaming, objective)
    if isinstance(value, list | tuple):
        inner = _SAME_KEYS.get(f"{path}[]", f"{path}[]")
        items = (
            _renamed(item, inner, renaming, objective) if isinstance(item, Mapping) else item
            for item in value
        )
        return type(value)(items)
    if isinstance(value, str):
        return VALUES.get(renaming, {}).get(path, {}).get(value, value)
    return value
