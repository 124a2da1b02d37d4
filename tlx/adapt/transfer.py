"""Initial parameters of a model that continues from a base model."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tlx.base import tree
from tlx.base.errors import CheckpointError, ConfigError
from tlx.base.tree import array_bytes, is_quantized
from tlx.nn.weight_formats import dequantized
from tlx.optim.leaves import STACK
from tlx.text.vocabulary import Vocabulary

_LARGEST_INT8 = 127
# Bytes that are hashed at a time.
_PART_BYTES = 2**26

TABLE = "model/embedding/table"
ENCODER_TABLE = "model/encoder_embedding/table"
PROMPT = "model/embedding/prompt"
# A prompt is drawn from so many ids: vocabularies are usually sorted by frequency.
_FREQUENT = 5000
# BERT's classifiers start from the pooler that next-sentence prediction has trained.
_POOLERS = ("heads/nsp/pooler", "heads/sop/pooler")


def base_hash(params: Mapping[str, Any]) -> str:
    """Return the sha256 of the language model's parameters: their paths, shapes, dtypes and bytes."""
    digest = hashlib.sha256()
    for path, leaf in sorted(tree.flatten(params["model"]).items()):
        digest.update(f"{path} {leaf.shape} {leaf.dtype}\n".encode())
        for part in _parts(leaf):
            digest.update(np.ascontiguousarray(part).view(np.uint8).data)
    return digest.hexdigest()


def _parts(leaf: Any) -> Iterator[np.ndarray]:
    """Yield an array by its first dim; one that is read on demand (hub/weights.py) is never there in full."""
    if not leaf.shape:
        yield np.asarray(leaf.read() if hasattr(leaf, "read") else leaf).reshape(1)
        return
    step = max(1, _PART_BYTES * leaf.shape[0] // max(1, array_bytes(leaf.shape, leaf.dtype)))
    for start in range(0, leaf.shape[0], step):
        index = (slice(start, start + step), *[slice(None)] * (len(leaf.shape) - 1))
        yield leaf.read(index) if hasattr(leaf, "read") else np.asarray(leaf[index])


def from_base(
    like: Any,
    base: Mapping[str, Any],
    task: str,
    vocab: Vocabulary,
    seed: int = 0,
    prompt: Sequence[Sequence[int]] = (),
    reinit_layers: int = 0,
) -> Any:
    """Replace parameters by those of a base model, sharded as before.

    The language model is taken over, and a pooler that was trained with it. Empty rows of ids that were added to
    an imported vocabulary are drawn from a normal distribution with the table's standard deviation, a prompt from
    the table's rows of frequent ids (Lester et al. 2021). Both depend on the base model and the seed only.

    Args:
        like: Tree of arrays on devices, or of shapes with shardings. Every shape must be in the base model;
            arrays that it lacks stay as they are.
        base: Parameters of the base model, on the host.
        task: Name of the objective or task, under which the heads stand.
        vocab: Vocabulary of the base model.
        seed: Seed of what is drawn.
        prompt: Ids of the words that a prompt's first vectors are the means of.
        reinit_layers: Number of top layers of each stack, and with them the pooler, that stay as they are.

    Returns:
        The tree with the base model's values.

    Raises:
        ConfigError: There are fewer layers than are to stay as they are.
        CheckpointError: A parameter of the base model is missing or has another shape.
    """
    leaves = tree.flatten(like)
    check_reinit(leaves, reinit_layers)
    base_values = base_leaves(base, leaves, task, vocab, seed, prompt)
    for path, leaf in leaves.items():
        if path in base_values and base_values[path].shape != leaf.shape:
            raise CheckpointError(
                f"the base model does not fit: {path} has shape {base_values[path].shape} there and "
                f"{leaf.shape} here"
            )
        if path not in base_values and not isinstance(leaf, jax.Array):
            raise CheckpointError(f"the base model does not fit: it has no {path}")

    def replaced(path: str, leaf: Any) -> Any:
        if path not in base_values:
            return leaf
        if reinit_layers and path.startswith(f"heads/{task}/"):
            return leaf
        values = base_values[path]
        if isinstance(values, jax.Array):
            # A copy even where it is there already: a step takes the memory of the state that it is given.
            return jax.device_put(values, leaf.sharding, may_alias=False)
        values = np.asarray(values, leaf.dtype)
        taken = jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda index: values[index])
        if not reinit_layers or not is_stacked(path):
            return taken
        return with_top_layers(taken, leaf, reinit_layers)

    return tree.map_with_path(replaced, like)


def is_stacked(path: str) -> bool:
    """Return whether a parameter's first dim is that of the layers of a stack."""
    return STACK in path.split("/")[:-1]


def check_reinit(leaves: Mapping[str, Any], reinit_layers: int) -> None:
    """Raise ConfigError where a stack has fewer layers of its own than are to begin anew."""
    fewest = min((leaf.shape[0] for path, leaf in leaves.items() if is_stacked(path)), default=0)
    if reinit_layers > fewest:
        raise ConfigError(
            f"adapt.reinit_layers = {reinit_layers} must be at most {fewest}, the layers of the model's stack that "
            "have parameters of their own"
        )


def with_top_layers(taken: jax.Array, fresh: jax.Array, count: int) -> jax.Array:
    """Combine stacked parameters.

    Args:
        taken: [L, ...], the lower layers.
        fresh: [L, ...], the upper ones.
        count: Number of upper layers.

    Returns:
        [L, ...], sharded as `fresh` is.
    """
    is_top = np.arange(len(taken)) >= len(taken) - count
    is_top = is_top.reshape(-1, *[1] * (taken.ndim - 1))
    return jax.jit(lambda a, b: jnp.where(is_top, b, a), out_shardings=fresh.sharding)(taken, fresh)


def base_leaves(
    base: Mapping[str, Any],
    wanted: Mapping[str, Any],
    task: str,
    vocab: Vocabulary,
    seed: int = 0,
    prompt: Sequence[Sequence[int]] = (),
) -> dict[str, Any]:
    """Return the initial values that a base model gives: its language model, and what `from_base` adds.

    Args:
        base: Parameters of the base model, on the host; matrices may be stored in fewer bits.
        wanted: By path, anything with the shape of the parameter.
        task: Name of the objective or task, under which the heads stand.
        vocab: Vocabulary of the base model.
        seed: Seed of what is drawn.
        prompt: As from_base's.

    Returns:
        Arrays by path.
    """
    flat = tree.flatten(base, is_quantized)
    model = {path: leaf for path, leaf in flat.items() if path.startswith("model/")}
    rng = np.random.default_rng(seed)
    has_prompt = PROMPT in wanted and PROMPT not in model
    # A model that reads characters has no table: ids that were added are spelled.
    for name in (TABLE, ENCODER_TABLE):
        if vocab.added and name in model:
            model[name] = _with_added(model[name], vocab, rng)
    if has_prompt and TABLE in model:
        model[PROMPT] = _prompt_vectors(_values(model[TABLE]), wanted[PROMPT].shape[0], vocab, rng, prompt)
    values = {}
    for path, leaf in model.items():
        if is_quantized(leaf):
            values |= {f"{path}/qvalue": leaf.qvalue, f"{path}/scale": leaf.scale}
        else:
            values[path] = np.asarray(leaf)
    for path, leaf in flat.items():
        for prefix in _POOLERS:
            target = path.replace(prefix, f"heads/{task}/pooler")
            if path.startswith(prefix) and target in wanted and wanted[target].shape == leaf.shape:
                values[target] = np.asarray(leaf)
    return values


def _drawn_rows(
    table: np.ndarray, vocab: Vocabulary, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return the added ids whose rows of the token table are empty, and rows drawn for them."""
    added = np.arange(vocab.size - vocab.added, vocab.size)
    empty = added[~np.any(table[added], axis=1)]
    known = table[: vocab.size - vocab.added]
    drawn = rng.normal(0.0, np.std(known), (len(empty), table.shape[1]))
    return empty, drawn.astype(table.dtype)


def _with_added(table: Any, vocab: Vocabulary, rng: np.random.Generator) -> Any:
    """Return a token table with rows for the added ids that have none, stored as it was."""
    values = _values(table)
    empty, drawn = _drawn_rows(values, vocab, rng)
    if is_quantized(table):
        return _with_rows(table, empty, drawn)
    filled = values.copy()
    filled[empty] = drawn
    return filled


def _values(table: Any) -> np.ndarray:
    """Return a token table's values, [V, E]."""
    # On the host: its arrays lie on other devices than those of the mesh that is in use.
    return np.asarray(dequantized(jax.device_get(table), np.float32))


def _with_rows(table: Any, ids: np.ndarray, rows: np.ndarray) -> Any:
    """Return a table that is stored in int8 with other rows at `ids`; its scales are those of rows."""
    stored = jax.device_get(table)
    scale = (np.max(np.abs(rows), axis=1, keepdims=True) / _LARGEST_INT8).astype(stored.scale.dtype)
    units = rows / np.maximum(scale.astype(np.float32), np.finfo(np.float32).tiny)
    scales = stored.scale.copy()
    scales[ids] = scale
    values = stored.qvalue.copy()
    values[ids] = np.clip(np.round(units), -_LARGEST_INT8, _LARGEST_INT8)
    return table.replace(qvalue=values, scale=scales)


def _prompt_vectors(
    table: np.ndarray,
    count: int,
    vocab: Vocabulary,
    rng: np.random.Generator,
    prompt: Sequence[Sequence[int]],
) -> np.ndarray:
    """Return the first values of a prompt: rows of frequent ids, or means of those of given words.

    Args:
        table: [V, E].
        count: Number of vectors.
        vocab: Vocabulary of the table.
        rng: Draws the ids.
        prompt: As from_base's.

    Returns:
        [count, E].
    """
    frequent = np.flatnonzero(~vocab.special)[:_FREQUENT]
    vectors = table[rng.choice(frequent, count)]
    for row, ids in enumerate(prompt[: len(vectors)]):
        vectors[row] = table[list(ids)].mean(axis=0, dtype=np.float32)
    return vectors
