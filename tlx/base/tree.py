"""Parameters by path: every rule of tlx (decay, freezing, sharding, conversion) names leaves this way."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax


def path_string(path: tuple[Any, ...]) -> str:
    """ "model/blocks/attention/query/kernel" from a jax key path."""
    return "/".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path)


def flatten(tree: Any) -> dict[str, Any]:
    """{path: leaf} in the tree's own order."""
    return {path_string(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dicts from {path: leaf}."""
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return tree


def map_with_path(function: Callable[..., Any], tree: Any, *rest: Any) -> Any:
    """`jax.tree.map` whose function takes the path string first."""
    return jax.tree_util.tree_map_with_path(
        lambda path, *leaves: function(path_string(path), *leaves), tree, *rest
    )


def matches(pattern: str, path: str) -> bool:
    """Whether the regular expression is found in the path (anchor it with ^ and $ where that matters)."""
    return re.search(pattern, path) is not None


def num_params(tree: Any) -> int:
    """Number of scalars in all leaves (arrays or ShapeDtypeStructs)."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def num_bytes(tree: Any) -> int:
    """Bytes of all leaves (arrays or ShapeDtypeStructs)."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def first_match(rules: Iterable[tuple[str, Any]], path: str, default: Any) -> Any:
    """Value of the first rule (regex, value) that matches the path."""
    return next((value for pattern, value in rules if matches(pattern, path)), default)
