"""Parameters from the tensors of a checkpoint and back, by the rows of a family's key table."""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np

from tlx.base.errors import DataError
from tlx.hub.pattern import Pattern, parse
from tlx.models.families.family import Family, WeightMapping

Index = tuple[slice, ...]


@dataclasses.dataclass(frozen=True)
class LazyTensor:
    """An array that is read when asked for, whole or a slice of it."""

    shape: tuple[int, ...]
    dtype: np.dtype
    part: Callable[[Index], np.ndarray]

    def read(self, index: Index | None = None) -> np.ndarray:
        """The array, or the slice `index`."""
        return self.part(tuple(slice(None) for _ in self.shape) if index is None else index)

    def place(self, sharding: jax.sharding.Sharding) -> jax.Array:
        """The array so sharded; each device's part is read alone."""
        return jax.make_array_from_callback(self.shape, sharding, self.read)


def lazy_tensor(array: np.ndarray) -> LazyTensor:
    """An array that is there."""
    return LazyTensor(array.shape, array.dtype, array.__getitem__)


def select(rows: Iterable[WeightMapping], heads: Iterable[str]) -> list[WeightMapping]:
    """The rows of the model and of these heads ("heads/mlm", "heads/nsp/pooler")."""
    wanted = tuple(f"{head}/" for head in heads)
    return [row for row in rows if not row.path.startswith("heads/") or row.path.startswith(wanted)]


def without_prefix(rows: Iterable[WeightMapping], prefix: str) -> list[WeightMapping]:
    """The rows with the names of a bare model's tensors."""
    return [dataclasses.replace(row, name=row.name.removeprefix(prefix)) for row in rows]


def from_tensors(
    rows: Iterable[WeightMapping],
    tensors: Mapping[str, np.ndarray],
    abstract: Mapping[str, Any],
    vocab_size: int,
) -> dict[str, LazyTensor]:
    """{path: parameter} for `abstract` {path: shape and dtype}; reads nothing but shapes.

    Raises DataError naming tensors that are missing, or of another shape than the model's, with both.
    """
    by_path = {row.path: row for row in rows}
    unknown = [path for path in abstract if path not in by_path]
    if unknown:
        raise DataError(f"the key table has no row for {', '.join(unknown)}")
    problems: list[str] = []
    found = {}
    for path, like in abstract.items():
        row = by_path[path]
        problems += _problems(row, tensors, like.shape, vocab_size)
        found[path] = LazyTensor(
            tuple(like.shape), np.dtype(like.dtype), _reader(row, tensors, like, vocab_size)
        )
    if problems:
        more = f"\n  ... and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise DataError("the tensors do not fit the config:\n" + "\n".join(problems[:20]) + more)
    return found


def to_tensors(
    rows: Iterable[WeightMapping], params: Mapping[str, Any], vocab_size: int, dtype: np.dtype | None = None
) -> dict[str, LazyTensor]:
    """{name: tensor} of `params` {path: array}. A tensor that packs several parameters needs them all."""
    groups: dict[tuple[str, int], list[tuple[WeightMapping, Any, int | tuple[int, int] | None]]] = {}
    for row in rows:
        leaf = params[row.path]
        for name, at in _names(row, leaf.shape):
            groups.setdefault(name, []).append((row, leaf, at))
    return {
        name: _writer(sorted(group, key=lambda item: item[0].part), vocab_size, dtype)
        for name, group in groups.items()
    }


def leftovers(
    family: Family,
    rows: Iterable[WeightMapping],
    tensors: Mapping[str, np.ndarray],
    abstract: Mapping[str, Any],
) -> list[str]:
    """Names of tensors that nothing reads. DataError where a copy differs from what it is a copy of."""
    used = {name for row in rows if row.path in abstract for name, _ in _names(row, abstract[row.path].shape)}
    left = []
    for name in tensors:
        if name in used or any(re.search(pattern, name) for pattern in family.ignored):
            continue
        source = family.copies.get(name) or family.copies.get(family.prefix + name)
        source = source if source in tensors else (source or "").removeprefix(family.prefix)
        if source not in tensors:
            left.append(name)
        elif not np.array_equal(tensors[name], tensors[source]):
            raise DataError(
                f"tensor {name} differs from {source}, and the config says that they are tied; "
                'set "tie_word_embeddings": false in config.json if the checkpoint means that'
            )
    return left


def complete(rows: Iterable[WeightMapping], tensors: Mapping[str, np.ndarray], head: str) -> bool:
    """Whether all tensors of a head are there."""
    names = [row.name for row in rows if row.path.startswith(f"{head}/")]
    return bool(names) and all(name in tensors for name in names)


def _names(row: WeightMapping, shape: tuple[int, ...]) -> list[tuple[str, tuple[int, ...]]]:
    """The tensors that a parameter is, and where in its stacked dims each stands."""
    if "{layer}" not in row.name:
        return [(row.name, ())]
    names = [(row.name.replace("{layer}", str(i + row.first)), (i,)) for i in range(shape[0])]
    if "{expert}" not in row.name:
        return names
    return [(name.replace("{expert}", str(e)), (*at, e)) for name, at in names for e in range(shape[1])]


def _one(row: WeightMapping, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of one layer's (one expert's) parameter."""
    return tuple(shape[("{layer}" in row.name) + ("{expert}" in row.name) :])


def _their_shape(row: WeightMapping, shape: tuple[int, ...], vocab_size: int) -> tuple[int, ...]:
    pattern = parse(row.pattern)
    if pattern is None:
        return _one(row, shape)
    return pattern.their_shape(_sizes(pattern, row, shape, vocab_size))


def _sizes(pattern: Pattern, row: WeightMapping, shape: tuple[int, ...], vocab_size: int) -> dict[str, int]:
    sizes = pattern.sizes(_one(row, shape))
    return sizes | {"v": vocab_size} if "v" in sizes else sizes


def _problems(
    row: WeightMapping, tensors: Mapping[str, np.ndarray], shape: tuple[int, ...], vocab_size: int
) -> list[str]:
    wanted, problems = _their_shape(row, shape, vocab_size), []
    for name, _ in _names(row, shape):
        if name not in tensors:
            problems.append(f"  {name} is missing ({row.path})")
        elif tensors[name].shape != wanted:
            problems.append(f"  {name} has shape {tensors[name].shape}, the model needs {wanted}")
    return problems


def _reader(
    row: WeightMapping, tensors: Mapping[str, np.ndarray], like: Any, vocab_size: int
) -> Callable[[Index], np.ndarray]:
    pattern, one = parse(row.pattern), _one(row, like.shape)
    dtype = np.dtype(like.dtype)

    def single(name: str, index: Index) -> np.ndarray:
        tensor = tensors[name]
        if pattern is not None:
            tensor = pattern.read(tensor, _sizes(pattern, row, like.shape, vocab_size), row.part)
        picked = tensor[tuple(slice(*i.indices(size)) for i, size in zip(index, one, strict=True))]
        values = np.asarray(picked, dtype)
        missing = [
            len(range(*i.indices(n))) - have for i, n, have in zip(index, one, values.shape, strict=True)
        ]
        if any(missing):  # rows of the padded vocabulary
            values = np.pad(values, [(0, count) for count in missing])
        return values + dtype.type(row.plus) if row.plus else values

    def read(index: Index) -> np.ndarray:
        lead = len(like.shape) - len(one)
        if not lead:
            return single(row.name, index)
        picked = [range(*i.indices(n)) for i, n in zip(index[:lead], like.shape[:lead], strict=True)]
        inner = tuple(len(range(*i.indices(n))) for i, n in zip(index[lead:], one, strict=True))
        values = np.empty((*map(len, picked), *inner), dtype)
        for name, at in _names(row, like.shape):
            if all(i in wanted for i, wanted in zip(at, picked, strict=True)):
                place = tuple(wanted.index(i) for i, wanted in zip(at, picked, strict=True))
                values[place] = single(name, index[lead:])
        return values

    return read


def _writer(
    group: list[tuple[WeightMapping, Any, Any]], vocab_size: int, dtype: np.dtype | None
) -> LazyTensor:
    row, leaf, _ = group[0]
    pattern = parse(row.pattern)
    if pattern is not None and len(group) != pattern.parts:
        raise DataError(f"{row.name} packs {pattern.parts} parameters, the key table has {len(group)}")
    target = np.dtype(dtype or leaf.dtype)

    def read(_: Index) -> np.ndarray:
        parts = [np.asarray(leaf[at] if at else leaf) - (row.plus or 0) for row, leaf, at in group]
        if pattern is None:
            (whole,) = parts
            return whole.astype(target)
        sizes = _sizes(pattern, row, leaf.shape, vocab_size)
        parts = [part[tuple(slice(0, sizes[word]) for word in pattern.ours)] for part in parts]
        return pattern.write(parts, sizes).astype(target)

    return LazyTensor(_their_shape(row, leaf.shape, vocab_size), target, read)
