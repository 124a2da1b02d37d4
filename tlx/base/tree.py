"""Parameters by path; rules of weight decay, freezing, sharding and conversion match these paths."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import jax


def path_string(path: tuple[Any, ...]) -> str:
    """Convert a JAX key path to a string such as "model/blocks/attention/query/kernel"."""
    # Keys of a dict, an attribute and a sequence store their value under different names.
    names = (getattr(key, "key", getattr(key, "name", getattr(key, "idx", key))) for key in path)
    return "/".join(str(name) for name in names)


def flatten(tree: Any) -> dict[str, Any]:
    """Return {path: leaf} in the order of the tree."""
    return {path_string(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Build nested dicts from {path: leaf}."""
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        names = path.split("/")
        node = tree
        for parent in names[:-1]:
            node = node.setdefault(parent, {})
        node[names[-1]] = leaf
    return tree


def map_with_path(function: Callable[..., Any], tree: Any, *other_trees: Any) -> Any:
    """Map a function (path string, leaf, leaves of the other trees) over a tree, as `jax.tree.map` does."""
    return jax.tree_util.tree_map_with_path(
        lambda path, *leaves: function(path_string(path), *leaves), tree, *other_trees
    )


def matches(pattern: str, path: str) -> bool:
    """Return whether a regular expression matches anywhere in a path (^ and $ anchor it)."""
    return re.search(pattern, path) is not None


def num_params(tree: Any) -> int:
    """Return the number of scalars in all leaves (arrays or ShapeDtypeStructs)."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def num_bytes(tree: Any) -> int:
    """Return the bytes of all leaves (arrays or ShapeDtypeStructs)."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
