"""The parameters of a model that goes on from another one."""

import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from tlx.base import tree
from tlx.base.errors import CheckpointError
from tlx.text.vocabulary import Vocabulary

TABLE = "model/embedding/table"
# BERT's pooler, which next-sentence prediction has trained, is where its classifiers begin.
_POOLERS = ("heads/nsp/pooler", "heads/sop/pooler")


def base_hash(params: Mapping[str, Any]) -> str:
    """sha256 of the language model's parameters: their paths, shapes, types and bytes."""
    digest = hashlib.sha256()
    for path, leaf in sorted(tree.flatten(params["model"]).items()):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{path} {array.shape} {array.dtype}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def transferred(fresh: Any, base: Mapping[str, Any], task: str, vocab: Vocabulary) -> Any:
    """`fresh` parameters (arrays on devices) with those of `base` (on the host) in place of theirs.

    The language model is taken over, and a pooler that was trained with it; heads stay fresh, and so do the
    rows of ids that were added to an imported vocabulary and are empty there. Raises CheckpointError where
    a parameter of the base has no place, or another shape.
    """
    theirs = {path: leaf for path, leaf in tree.flatten(base).items() if path.startswith("model/")}
    ours = tree.flatten(fresh)
    wrong = [path for path, leaf in theirs.items() if path not in ours or ours[path].shape != leaf.shape]
    if wrong:
        raise CheckpointError(
            f"the base model does not fit: {wrong[0]} has shape {theirs[wrong[0]].shape} there and "
            f"{ours[wrong[0]].shape if wrong[0] in ours else 'no place'} here"
        )
    theirs |= _pooler(tree.flatten(base), ours, task)

    def taken(path: str, leaf: jax.Array) -> jax.Array:
        if path not in theirs:
            return leaf
        values = np.asarray(theirs[path], leaf.dtype)
        if path == TABLE and vocab.added:
            values = _with_added(values, leaf, vocab)
        return jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda index: values[index])

    return tree.map_with_path(taken, fresh)


def _pooler(base: Mapping[str, Any], ours: Mapping[str, Any], task: str) -> dict[str, Any]:
    """{path here: parameter of the base's pooler}, where there is one and it fits."""
    found = {}
    for path, leaf in base.items():
        for prefix in _POOLERS:
            target = path.replace(prefix, f"heads/{task}/pooler")
            if path.startswith(prefix) and target in ours and ours[target].shape == leaf.shape:
                found[target] = leaf
    return found


def _with_added(values: np.ndarray, fresh: jax.Array, vocab: Vocabulary) -> np.ndarray:
    """A token table whose empty rows of added ids are fresh."""
    added = np.arange(vocab.size - vocab.added, vocab.size)
    empty = added[~np.any(values[added], axis=1)]
    values = values.copy()
    values[empty] = np.asarray(jax.device_get(fresh[empty]), values.dtype)
    return values
