"""The parameters of a model that goes on from another one."""

import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from tlx.base import tree
from tlx.base.errors import CheckpointError
from tlx.text.vocabulary import Vocabulary

TABLE, PROMPT = "model/embedding/table", "model/embedding/prompt"
_FREQUENT = 5000  # ids from which a prompt is drawn: vocabularies are sorted by frequency, as a rule
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


def from_base(like: Any, base: Mapping[str, Any], task: str, vocab: Vocabulary, seed: int = 0) -> Any:
    """`like` with the parameters of `base` (on the host) in place of its own, each laid out as there.

    `like`: a tree of arrays on devices, or of shapes with shardings, all of which the base must have; arrays
    that it has not stay as they are. What is taken over: the language model, and a pooler that was trained
    with it. Rows of ids that were added to an imported vocabulary and are empty there, and those of a
    prompt, are drawn: from a normal law as wide as the table, and from its rows of frequent ids (Lester et
    al. 2021). They depend on the base and the seed alone. Raises CheckpointError where one does not fit.
    """
    ours = tree.flatten(like)
    theirs = base_leaves(base, ours, task, vocab, seed)
    for path, leaf in ours.items():
        if path in theirs and theirs[path].shape != leaf.shape:
            raise CheckpointError(
                f"the base model does not fit: {path} has shape {theirs[path].shape} there and "
                f"{leaf.shape} here"
            )
        if path not in theirs and not isinstance(leaf, jax.Array):
            raise CheckpointError(f"the base model does not fit: it has no {path}")

    def taken(path: str, leaf: Any) -> Any:
        if path not in theirs:
            return leaf
        values = np.asarray(theirs[path], leaf.dtype)
        return jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda index: values[index])

    return tree.map_with_path(taken, like)


def base_leaves(
    base: Mapping[str, Any], wanted: Mapping[str, Any], task: str, vocab: Vocabulary, seed: int = 0
) -> dict[str, np.ndarray]:
    """{path: array} of what goes on from the base: all of its language model, and what from_base adds.

    wanted: {path: anything with a shape} of the parameters that there are to be.
    """
    flat = tree.flatten(base)
    found = {path: np.asarray(leaf) for path, leaf in flat.items() if path.startswith("model/")}
    rng = np.random.default_rng(seed)
    table = found[TABLE]
    if vocab.added:
        found[TABLE] = _with_added(table, vocab, rng)
    if PROMPT not in found and PROMPT in wanted:
        frequent = np.flatnonzero(~vocab.special)[:_FREQUENT]
        found[PROMPT] = table[rng.choice(frequent, wanted[PROMPT].shape[0])]
    for path, leaf in flat.items():
        for prefix in _POOLERS:
            target = path.replace(prefix, f"heads/{task}/pooler")
            if path.startswith(prefix) and target in wanted and wanted[target].shape == leaf.shape:
                found[target] = np.asarray(leaf)
    return found


def _with_added(table: np.ndarray, vocab: Vocabulary, rng: np.random.Generator) -> np.ndarray:
    """The token table, its empty rows of added ids drawn."""
    added = np.arange(vocab.size - vocab.added, vocab.size)
    empty = added[~np.any(table[added], axis=1)]
    known = table[: vocab.size - vocab.added]
    table = table.copy()
    table[empty] = rng.normal(0.0, np.std(known), (len(empty), table.shape[1])).astype(table.dtype)
    return table
