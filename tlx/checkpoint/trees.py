"""Any pytree of arrays to and from the nested dicts that are stored, so that files know no Python class.

The leaves under `params` are stored apart from the rest, so that reading a model reads no optimizer state.
"""

from typing import Any

import jax
import numpy as np

from tlx.base import tree as trees
from tlx.checkpoint.manifest import LeafInfo

PARAMS = "params"
REST = "rest"


def flat(tree: Any) -> dict[str, Any]:
    """{path: leaf}; refuses leaves that are not arrays and paths that would collide."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    found = {trees.path_string(path): leaf for path, leaf in leaves}
    if len(found) != len(leaves) or "" in found:
        raise ValueError("a tree to store needs a distinct, non-empty path for every leaf")
    for path, leaf in found.items():
        if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
            raise TypeError(f"{path}: {type(leaf).__name__} is not an array")
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            raise TypeError(f"{path}: store jax.random.key_data of a key, not the key")
    return found


def describe(tree: Any) -> dict[str, LeafInfo]:
    """Shape and dtype name of every leaf by path."""
    return {path: LeafInfo(tuple(leaf.shape), str(leaf.dtype)) for path, leaf in flat(tree).items()}


def split(tree: Any) -> dict[str, dict[str, Any]]:
    """{"params": nested, "rest": nested} of what is there; arrays or ShapeDtypeStructs."""
    parts: dict[str, dict[str, Any]] = {}
    for path, leaf in flat(tree).items():
        part, name = _place(path)
        parts.setdefault(part, {})[name] = np.asarray(leaf) if isinstance(leaf, np.generic) else leaf
    return {part: trees.unflatten(leaves) for part, leaves in parts.items()}


def join(like: Any, parts: dict[str, dict[str, Any]]) -> Any:
    """The stored leaves in the structure of `like`."""
    stored = {part: trees.flatten(leaves) for part, leaves in parts.items()}

    def pick(path: str, _: Any) -> Any:
        part, name = _place(path)
        return stored[part][name]

    return trees.map_with_path(pick, like)


def part_of(path: str) -> str:
    """The part ("params" or "rest") that stores the leaf `path`."""
    return _place(path)[0]


def _place(path: str) -> tuple[str, str]:
    head, _, tail = path.partition("/")
    return (PARAMS, tail) if head == PARAMS and tail else (REST, path)
