"""Pytrees of arrays to and from nested dicts, which are stored: files know no Python class.

The leaves under `params`, and those of a moving average of them, are stored apart from the others, so that loading a
model reads no optimizer state.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tlx.base import tree as trees
from tlx.checkpoint.manifest import LeafInfo

PARAMS = "params"
EMA = "ema"
REST = "rest"
# Parts, and where their leaves are in the tree of a train state.
_PREFIXES = {PARAMS: "params/", EMA: "extra/ema/"}


def flat(tree: Any) -> dict[str, Any]:
    """Flatten a tree by path; ValueError where paths collide, TypeError for leaves that are not arrays."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    by_path = {trees.path_string(path): leaf for path, leaf in leaves}
    # Two leaves of one path would overwrite each other in a file, without an error.
    if len(by_path) != len(leaves) or "" in by_path:
        raise ValueError("a tree to store needs a distinct, non-empty path for every leaf")
    for path, leaf in by_path.items():
        if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
            raise TypeError(f"{path}: {type(leaf).__name__} is not an array")
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            raise TypeError(f"{path}: store jax.random.key_data of a key, not the key")
    return by_path


def describe(tree: Any) -> dict[str, LeafInfo]:
    """Return the shape and the dtype of every leaf, by path."""
    return {path: LeafInfo(tuple(leaf.shape), str(leaf.dtype)) for path, leaf in flat(tree).items()}


def split(tree: Any) -> dict[str, dict[str, Any]]:
    """Split a tree of arrays or ShapeDtypeStructs into its parts "params", "ema" and "rest", nested dicts each."""
    parts: dict[str, dict[str, Any]] = {}
    for path, leaf in flat(tree).items():
        part, name = _part_and_name(path)
        parts.setdefault(part, {})[name] = np.asarray(leaf) if isinstance(leaf, np.generic) else leaf
    return {part: trees.unflatten(leaves) for part, leaves in parts.items()}


def join(like: Any, parts: dict[str, dict[str, Any]]) -> Any:
    """Arrange stored leaves in the structure of `like`."""
    stored = {part: trees.flatten(leaves) for part, leaves in parts.items()}

    def pick(path: str, _: Any) -> Any:
        part, name = _part_and_name(path)
        return stored[part][name]

    return trees.map_with_path(pick, like)


def part_of(path: str) -> str:
    """Return the part, "params", "ema" or "rest", that stores the leaf at `path`."""
    return _part_and_name(path)[0]


def prefix_of(part: str) -> str:
    """Return the beginning of the paths of the leaves in "params" or "ema"."""
    return _PREFIXES[part]


def _part_and_name(path: str) -> tuple[str, str]:
    for part, prefix in _PREFIXES.items():
        if path.startswith(prefix):
            return part, path.removeprefix(prefix)
    return REST, path
