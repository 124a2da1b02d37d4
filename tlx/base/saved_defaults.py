"""Values of config keys in runs that were saved before the keys existed; the only table of them.

The default of a key is what new runs do. Where it differs from what runs did before there was the key, that
older value stands here. A saved config without the key gets it when it is read (`fill`), and the config of a
run that is resumed gets it too (`adopt`), so that the run goes on as it began. "objective:NAME" holds keys of
that objective alone; "data" and its groups apply to the sources of a mixture as well.
"""

import copy
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

# {group: {key: value in runs saved without the key}}
VALUES: dict[str, dict[str, Any]] = {
    "data": {"on_bad_record": "keep"},
    "data.text": {
        "hold_out": "documents",
        "clean": False,
    },
    "optimizer": {"bias_correction": True},
    "optimizer.schedule": {"decay_from": "warmup", "warmup_shape": "linear"},
    "objective:bart": {"mask_draw": "token"},
    "objective:classification": {"frame": "tlx"},
    "objective:mbart": {"mask_draw": "token"},
    "objective:pair_classification": {"frame": "tlx"},
    "objective:plm": {"pair_ends": "part"},
    "objective:question_answering": {"max_context": False, "frame": "tlx"},
    "objective:regression": {"frame": "tlx"},
    "objective:similarity": {"frame": "tlx"},
    "objective:rtd": {"rows": "packed"},
    "objective:sop": {"word_rule": "tokenizer"},
    "objective:token_classification": {"encoding": "joined", "frame": "tlx"},
    "train": {"max_rollbacks": 0, "clip_groups": ()},
}

# Groups of the sources of a mixture, data.mixture[], relative to the source.
_OF_SOURCES = {"text": "data.text"}


class AddedKey(NamedTuple):
    """A key of VALUES in a config."""

    path: str
    """Dotted key, with the index of a source ("data.mixture[0].text.clean")."""
    value: Any
    """Value in runs that were saved without the key."""


def fill(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a saved config in which keys that it lacks have their older values.

    A config without the outermost group of a key, such as one that is no run's, does not get the key.
    """
    filled = copy.deepcopy(dict(config))
    for group, name, key in _missing(filled):
        group[name] = key.value
    return filled


def adopt(config: Mapping[str, Any], saved: Mapping[str, Any]) -> tuple[dict[str, Any], list[AddedKey]]:
    """Give a config the older value of each key that a saved config lacks.

    Args:
        config: Config of a run that is to be resumed, as nested mappings.
        saved: The run's config as it was saved, not filled.

    Returns:
        The config to resume with, and the keys whose values changed.
    """
    adopted = copy.deepcopy(dict(config))
    changed = []
    for _, _, key in _missing(copy.deepcopy(dict(saved))):
        if _replace(adopted, key):
            changed.append(key)
    return adopted, changed


def _missing(config: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str, AddedKey]]:
    """Yield (group, name in it, key) of the keys of VALUES that a config lacks."""
    for path, keys in VALUES.items():
        for group_path, group in _groups(config, path):
            for name, value in keys.items():
                if name not in group:
                    yield group, name, AddedKey(f"{group_path}.{name}", value)


def _groups(config: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield pairs (dotted path, group) of the groups that a path of VALUES means in a config."""
    path, _, objective = path.partition(":")
    names = path.split(".")
    outer = config.get(names[0])
    if not isinstance(outer, dict) or (objective and outer.get("name") != objective):
        return
    group = outer
    for name in names[1:]:
        group = group.setdefault(name, {})
    yield path, group
    for relative, like in _OF_SOURCES.items():
        if like == path:
            for index, source in enumerate(outer.get("mixture") or ()):
                yield f"data.mixture[{index}].{relative}", source.setdefault(relative, {})


def _replace(config: dict[str, Any], key: AddedKey) -> bool:
    """Set a key of a config in place. Returns whether its value changed."""
    *groups, name = key.path.replace("[", ".").replace("]", "").split(".")
    node: Any = config
    for group in groups:
        if isinstance(node, list | tuple):
            if int(group) >= len(node):
                return False
            node = node[int(group)]
        elif isinstance(node, dict) and group in node:
            node = node[group]
        else:
            return False
    if not isinstance(node, dict) or node.get(name, key.value) == key.value:
        return False
    node[name] = key.value
    return True
