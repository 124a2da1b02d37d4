"""The parameters that an adaptation method trains; the others stay the base model's and are not saved."""

import re
from collections.abc import Mapping
from typing import Any

from tlx.adapt.config import AdaptConfig
from tlx.base import tree
from tlx.base.errors import ConfigError
from tlx.base.observed import is_observed

# Patterns of the paths of trained parameters, besides the head.
_TRAINED = {
    "full": ("",),
    "head": (),
    "lora": ("/lora_[ab]$",),
    "houlsby": ("/(attention_)?adapter/", "norm/(scale|bias)$"),
    "pfeiffer": ("/adapter/",),
    "prefix": ("/attention/prefix/", "/prefix_network/"),
    "prompt": ("^model/embedding/prompt$",),
    "bitfit": ("/bias$",),
    "fl": ("/feedforward/units_",),
}
_HEAD = "^heads/"


def is_trained(config: AdaptConfig, path: str) -> bool:
    """Return whether a parameter is trained, the optimizer's own rules aside."""
    patterns = (_HEAD, *_TRAINED[config.method], *config.also_train)
    # Ranges of activations change with whatever is trained.
    return is_observed(path) or any(tree.matches(pattern, path) for pattern in patterns)


def split(config: AdaptConfig, params: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split parameters, real, abstract or boxed, into the tree of trained and the tree of frozen ones."""
    if config.method == "full":
        return params, {}
    flat = _leaves(params)
    trained = {path: leaf for path, leaf in flat.items() if is_trained(config, path)}
    frozen = {path: leaf for path, leaf in flat.items() if path not in trained}
    return tree.unflatten(trained), tree.unflatten(frozen)


def check_patterns(config: AdaptConfig, params: Any) -> None:
    """Raise ConfigError where the model has none of the parameters that are to be trained."""
    paths = list(_leaves(params))
    for pattern in config.also_train:
        try:
            matched = any(tree.matches(pattern, path) for path in paths)
        except re.error as error:
            raise ConfigError(
                f"adapt.also_train: {pattern!r} is not a regular expression: {error}"
            ) from error
        if not matched:
            raise ConfigError(f"adapt.also_train: {pattern!r} matches no parameter, such as {paths[0]}")
    if config.method == "head" and not any(is_trained(config, path) for path in paths):
        raise ConfigError(
            "adapt.method = 'head' trains the task's head, and this task has none: its output is the "
            "language model's; 'lora' and the others train a part of the model"
        )
    inside = [path for path in paths if not path.startswith("heads/") and is_trained(config, path)]
    inside = [path for path in inside if not is_observed(path)]
    if config.method not in ("full", "head") and not inside:
        raise ConfigError(
            f"adapt.method = {config.method!r} finds nothing to train in this model: it has no "
            f"{'biases' if config.method == 'bitfit' else 'such part'}"
        )


def _leaves(params: Any) -> dict[str, Any]:
    """Flatten nested dicts only, so that a box with logical names stays a leaf."""
    leaves: dict[str, Any] = {}

    def walk(node: Any, prefix: str) -> None:
        if isinstance(node, Mapping):
            for name, value in node.items():
                walk(value, f"{prefix}{name}/")
        else:
            leaves[prefix.removesuffix("/")] = node

    walk(params, "")
    return leaves
