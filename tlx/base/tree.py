"""Parameters by path; rules of weight decay, freezing, sharding and conversion match these paths."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax


def path_string(path: tuple[Any, ...]) -> str:
    """Convert a JAX key path to a string such as "model/blocks/attention/query/kernel"."""
    # Keys of a dict, an attribute and a sequence store their value under different names.
    names = (getattr(key, "key", getattr(key, "name", getattr(key, "idx", key))) for key in path)
    return "/".join(str(name) for name in names)


def flatten(tree: Any, is_leaf: Callable[[Any], bool] | None = None) -> dict[str, Any]:
    """Return {path: leaf} in the order of the tree; a node for which `is_leaf` is true is one leaf."""
    return {path_string(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree, is_leaf)}


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


def is_quantized(leaf: Any) -> bool:
    """Return whether a node of a tree is a matrix stored in fewer bits (nn/weight_formats.py)."""
    return hasattr(leaf, "qvalue") and hasattr(leaf, "scale")


def num_params(tree: Any) -> int:
    """Return the number of scalars in all leaves (arrays or ShapeDtypeStructs), scales of stored matrices aside."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree, is_leaf=is_quantized))


def array_bytes(shape: Sequence[int], dtype: Any) -> int:
    """Return the bytes of an array on a device, where two values of 4 bits share a byte."""
    return math.prod(shape) * jax.dtypes.itemsize_bits(dtype) // 8


def num_bytes(tree: Any) -> int:
    """Return the bytes of all leaves (arrays or ShapeDtypeStructs)."""
    return sum(array_bytes(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree))
