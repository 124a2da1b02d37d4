"""Parameters from the tensors of a checkpoint and back, by the rows of a family's key table."""

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tlx.base.errors import DataError
from tlx.hub import fp8
from tlx.hub.pattern import Pattern, parse
from tlx.hub.safetensors import RenamedTensors
from tlx.models.config import ModelConfig
from tlx.models.families.family import Family, WeightMapping
from tlx.nn.position import sinusoid

Index = tuple[slice, ...]


@dataclasses.dataclass(frozen=True)
class LazyTensor:
    """An array that is read on demand, whole or a slice of it."""

    shape: tuple[int, ...]
    """Shape of the whole array."""
    dtype: np.dtype
    """Dtype of the array."""
    read_slice: Callable[[Index], np.ndarray]
    """Reads the slice at an index, which has one `slice` for each dimension."""

    def read(self, index: Index | None = None) -> np.ndarray:
        """Read the whole array, or the slice `index`."""
        if index is None:
            index = tuple(slice(None) for _ in self.shape)
        return self.read_slice(index)

    def to_devices(self, sharding: jax.sharding.Sharding) -> jax.Array:
        """Read the array into a sharded one; only the shards of local devices are read."""
        return jax.make_array_from_callback(self.shape, sharding, self.read)


def lazy_tensor(array: np.ndarray) -> LazyTensor:
    """Wrap an array that is already in memory."""
    return LazyTensor(array.shape, array.dtype, array.__getitem__)


def select(rows: Iterable[WeightMapping], heads: Iterable[str]) -> list[WeightMapping]:
    """Select the rows of the model and of these heads ("heads/mlm", "heads/nsp/pooler")."""
    prefixes = tuple(f"{head}/" for head in heads)
    return [row for row in rows if not row.path.startswith("heads/") or row.path.startswith(prefixes)]


def without_prefix(rows: Iterable[WeightMapping], prefix: str) -> list[WeightMapping]:
    """Rename the tensors of the rows to those of a class without a head."""
    return [dataclasses.replace(row, name=row.name.removeprefix(prefix)) for row in rows]


def from_tensors(
    rows: Iterable[WeightMapping],
    tensors: Mapping[str, np.ndarray],
    abstract: Mapping[str, Any],
    vocab_size: int,
) -> dict[str, LazyTensor]:
    """Map parameters to the tensors of a checkpoint. Only shapes are read.

    Args:
        rows: The key table of the model.
        tensors: {name: tensor} of the checkpoint.
        abstract: {path: shape and dtype} of the parameters.
        vocab_size: Vocabulary size of the checkpoint, without padding.

    Returns:
        {path: parameter that is read on demand}.

    Raises:
        DataError: If tensors are missing or have another shape than the model needs; names them with both
            shapes.
    """
    by_path = {row.path: row for row in rows}
    unknown = [path for path in abstract if path not in by_path]
    if unknown:
        raise DataError(f"the key table has no row for {', '.join(unknown)}")
    problems: list[str] = []
    params = {}
    full_tensors = fp8.FullTensors(tensors)
    for path, like in abstract.items():
        row = by_path[path]
        problems += _problems(row, tensors, like.shape, vocab_size)
        read_slice = _reader(row, tensors, full_tensors, like, vocab_size)
        params[path] = LazyTensor(tuple(like.shape), np.dtype(like.dtype), read_slice)
    if problems:
        more = f"\n  ... and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise DataError("the tensors do not fit the config:\n" + "\n".join(problems[:20]) + more)
    return params


def with_stored_dtypes(
    rows: Iterable[WeightMapping], tensors: Mapping[str, np.ndarray], abstract: Mapping[str, Any]
) -> dict[str, jax.ShapeDtypeStruct]:
    """Give parameters the dtypes of the tensors that they are read from.

    Args:
        rows: The key table of the model.
        tensors: {name: tensor} of the checkpoint.
        abstract: {path: shape and dtype} of the parameters; one without a tensor keeps its dtype.

    Returns:
        {path: shape and dtype}. What is float8 in the file is bfloat16, and float64 is float32.
    """
    replaced = {fp8.FLOAT8: np.dtype(jnp.bfloat16), np.dtype(np.float64): np.dtype(np.float32)}
    by_path = {row.path: row for row in rows}
    stored = dict(abstract)
    for path, like in abstract.items():
        row = by_path.get(path)
        names = [] if row is None else [name for name, _ in _names(row, like.shape) if name in tensors]
        if row is None or not names or not jnp.issubdtype(tensors[names[0]].dtype, jnp.floating):
            continue
        dtype = tensors[names[0]].dtype
        # What is computed from a tensor would be rounded anew.
        is_copy = row.times == 1 and not row.plus
        stored[path] = jax.ShapeDtypeStruct(like.shape, replaced.get(dtype, dtype) if is_copy else np.float32)
    return stored


def to_tensors(
    rows: Iterable[WeightMapping], params: Mapping[str, Any], vocab_size: int, dtype: np.dtype | None = None
) -> dict[str, LazyTensor]:
    """Map the tensors of a checkpoint to parameters.

    Args:
        rows: The key table of the model.
        params: {path: array}.
        vocab_size: Vocabulary size of the checkpoint, without padding.
        dtype: Dtype of the tensors; None keeps that of each parameter.

    Returns:
        {name: tensor that is read on demand}.

    Raises:
        DataError: If the rows do not have all parameters that a tensor packs.
    """
    groups: dict[str, list[tuple[WeightMapping, Any, tuple[int, ...]]]] = {}
    for row in rows:
        leaf = params[row.path]
        for name, stack_index in _names(row, leaf.shape):
            groups.setdefault(name, []).append((row, leaf, stack_index))
    return {
        name: _writer(sorted(group, key=lambda item: item[0].part), vocab_size, dtype)
        for name, group in groups.items()
    }


def with_tied_names(
    family: Family, rows: Iterable[WeightMapping], tensors: Mapping[str, np.ndarray]
) -> Mapping[str, np.ndarray]:
    """Rename tied tensors that a file stores once, under the name of a copy, to the name that the key table reads.

    Args:
        family: The family, which knows the names of copies.
        rows: The key table of the model.
        tensors: {name: tensor} of the checkpoint.

    Returns:
        The tensors; those whose original is there keep their names.
    """
    needed = {row.name for row in rows}
    names = {name: name for name in tensors}
    for copy, original in family.copies.items():
        for target in {original, original.removeprefix(family.prefix)} & needed:
            for stored in {copy, copy.removeprefix(family.prefix)} - needed:
                if stored in names and target not in names:
                    names[target] = names.pop(stored)
    return RenamedTensors(tensors, names)


def leftovers(
    family: Family,
    rows: Iterable[WeightMapping],
    tensors: Mapping[str, np.ndarray],
    abstract: Mapping[str, Any],
) -> list[str]:
    """List the tensors of a checkpoint that no parameter reads.

    Args:
        family: The family, which knows copies of tied weights and tensors to ignore.
        rows: The key table of the model.
        tensors: {name: tensor} of the checkpoint.
        abstract: {path: shape and dtype} of the parameters.

    Returns:
        The names, in the order of `tensors`.

    Raises:
        DataError: If a copy of a tied weight differs from the original.
    """
    used = {name for row in rows if row.path in abstract for name, _ in _names(row, abstract[row.path].shape)}
    scales = [fp8.scale_names(tensors, name) for name in used if name in tensors]
    used.update(itertools.chain.from_iterable(scales))
    unused = []
    for name in tensors:
        if name in used or any(re.search(pattern, name) for pattern in (*family.ignored, *family.sinusoids)):
            continue
        original = family.copies.get(name) or family.copies.get(family.prefix + name) or ""
        if original not in tensors:
            original = original.removeprefix(family.prefix)
        if original not in tensors:
            unused.append(name)
        elif not np.array_equal(tensors[name], tensors[original]):
            raise DataError(
                f"tensor {name} differs from {original}, and the config says that they are tied; "
                'set "tie_word_embeddings": false in config.json if the checkpoint means that'
            )
    return unused


def check_sinusoids(family: Family, config: ModelConfig, tensors: Mapping[str, np.ndarray]) -> None:
    """Check stored sinusoids against those that the network computes.

    Args:
        family: The family, which knows the names of such tensors.
        config: The model config.
        tensors: {name: tensor} of the checkpoint.

    Raises:
        DataError: If a table holds other values, those of a trained one say.
    """
    for name in tensors:
        if not any(re.search(pattern, name) for pattern in family.sinusoids):
            continue
        stored = np.asarray(tensors[name], np.float32)
        num_rows = stored.shape[0]
        position = config.position
        computed = sinusoid(jnp.arange(num_rows), config.width, position.theta, position.sinusoid_layout)
        if stored.shape != computed.shape:
            raise DataError(f"{name} has shape {stored.shape}, the model needs {computed.shape}")
        difference = float(np.abs(stored - np.asarray(computed)).max(initial=0))
        # Tables that were stored in bfloat16 are rounded by .004.
        if not difference < 0.01:
            raise DataError(
                f"{name} differs by up to {difference:.3g} from the sinusoids that the family {family.name} "
                "computes: its positions were trained, or are of another kind"
            )


def complete(rows: Iterable[WeightMapping], tensors: Mapping[str, np.ndarray], head: str) -> bool:
    """Tell whether a checkpoint has all tensors of a head.

    Args:
        rows: The key table of the model.
        tensors: {name: tensor} of the checkpoint.
        head: Parameter path of the head ("heads/mlm").

    Returns:
        False also if the key table has no row for the head.
    """
    names = [row.name for row in rows if row.path.startswith(f"{head}/")]
    return bool(names) and all(name in tensors for name in names)


def _names(row: WeightMapping, shape: tuple[int, ...]) -> list[tuple[str, tuple[int, ...]]]:
    """Return the tensors that make up a parameter, each with its index in the stacked dims."""
    if "{layer}" not in row.name:
        return [(row.name, ())]
    layers = []
    for i in range(shape[0]):
        group, inner = divmod(row.layers[i] if row.layers else i, row.group_layers)
        name = row.name.replace("{layer}", str(group + row.first)).replace("{inner}", str(inner))
        layers.append((name, (i,)))
    if "{expert}" not in row.name:
        return layers
    return [
        (name.replace("{expert}", str(expert)), (*layer_index, expert))
        for name, layer_index in layers
        for expert in range(shape[1])
    ]


def _unstacked_shape(row: WeightMapping, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of the parameter of one layer, or of one expert."""
    return tuple(shape[("{layer}" in row.name) + ("{expert}" in row.name) :])


def _tensor_shape(row: WeightMapping, shape: tuple[int, ...], vocab_size: int) -> tuple[int, ...]:
    """Return the shape of the Hugging Face tensor for a parameter of `shape`."""
    pattern = parse(row.pattern)
    if pattern is None:
        return _unstacked_shape(row, shape)
    tensor_shape = pattern.tensor_shape(_sizes(pattern, row, shape, vocab_size))
    if row.sections:
        return (sum(row.sections) * row.section_groups, *tensor_shape[1:])
    return tensor_shape


def _section(row: WeightMapping, tensor: np.ndarray) -> np.ndarray:
    """Return the rows of a parameter in a tensor that holds those of several, as a view where numpy can make one."""
    if not row.sections:
        return tensor
    first = sum(row.sections[: row.part])
    groups = tensor.reshape(row.section_groups, sum(row.sections), *tensor.shape[1:])
    rows = groups[:, first : first + row.sections[row.part]]
    return rows.reshape(-1, *tensor.shape[1:])


def _join_sections(row: WeightMapping, parts: list[np.ndarray]) -> np.ndarray:
    """Build the tensor from the rows of all its parameters, in order."""
    groups = [part.reshape(row.section_groups, -1, *part.shape[1:]) for part in parts]
    return np.concatenate(groups, axis=1).reshape(-1, *parts[0].shape[1:])


def _sizes(pattern: Pattern, row: WeightMapping, shape: tuple[int, ...], vocab_size: int) -> dict[str, int]:
    """Return the sizes of the dims in the checkpoint, where the vocabulary is not padded."""
    sizes = pattern.sizes(_unstacked_shape(row, shape))
    return sizes | {"v": vocab_size} if "v" in sizes else sizes


def _problems(
    row: WeightMapping, tensors: Mapping[str, np.ndarray], shape: tuple[int, ...], vocab_size: int
) -> list[str]:
    """Describe the tensors of a parameter that are missing or have a wrong shape."""
    expected = _tensor_shape(row, shape, vocab_size)
    problems = []
    for name, _ in _names(row, shape):
        if name not in tensors and row.fill is None:
            problems.append(f"  {name} is missing ({row.path})")
        elif name in tensors and tensors[name].shape != expected:
            problems.append(f"  {name} has shape {tensors[name].shape}, the model needs {expected}")
        elif name in tensors and not jnp.issubdtype(tensors[name].dtype, jnp.floating):
            problems.append(f"  {name} has dtype {tensors[name].dtype}, and weights are no integers")
        elif name in tensors and (message := fp8.problem(tensors, name)):
            problems.append(f"  {message}")
    return problems


def _reader(
    row: WeightMapping,
    tensors: Mapping[str, np.ndarray],
    full_tensors: fp8.FullTensors,
    like: Any,
    vocab_size: int,
) -> Callable[[Index], np.ndarray]:
    """Return a function that reads a slice of a parameter from the tensors that make it up."""
    pattern = parse(row.pattern)
    unstacked = _unstacked_shape(row, like.shape)
    num_stacked = len(like.shape) - len(unstacked)
    dtype = np.dtype(like.dtype)

    def read_tensor(name: str, index: Index) -> np.ndarray:
        if row.fill is not None and name not in tensors:
            sizes = [len(range(*i.indices(size))) for i, size in zip(index, unstacked, strict=True)]
            return np.full(sizes, row.fill, dtype)
        tensor = full_tensors.read(name, dtype)
        if pattern is not None:
            tensor = _section(row, tensor)
            # A section holds one parameter.
            part = 0 if row.sections else row.part
            tensor = pattern.read(tensor, _sizes(pattern, row, like.shape, vocab_size), part)
        selected = tensor[tuple(slice(*i.indices(size)) for i, size in zip(index, unstacked, strict=True))]
        values = np.asarray(selected, dtype)
        # The first scalar alone is looked at in a sound tensor.
        if values.size and np.isnan(values.flat[0]) and np.isnan(values).all():
            raise DataError(f"{name} holds nothing but NaN")
        # The vocabulary is padded in tlx only: rows past the end of the tensor are zeros.
        missing = [
            len(range(*i.indices(size))) - present
            for i, size, present in zip(index, unstacked, values.shape, strict=True)
        ]
        if any(missing):
            values = np.pad(values, [(0, count) for count in missing])
        if row.times != 1:
            values = values * dtype.type(row.times)
        return values + dtype.type(row.plus) if row.plus else values

    def read_slice(index: Index) -> np.ndarray:
        if not num_stacked:
            return read_tensor(row.name, index)
        stacked_shape = like.shape[:num_stacked]
        stacked = [
            range(*i.indices(size)) for i, size in zip(index[:num_stacked], stacked_shape, strict=True)
        ]
        inner_index = index[num_stacked:]
        inner = tuple(len(range(*i.indices(size))) for i, size in zip(inner_index, unstacked, strict=True))
        values = np.empty((*map(len, stacked), *inner), dtype)
        for name, stack_index in _names(row, like.shape):
            if all(i in selected for i, selected in zip(stack_index, stacked, strict=True)):
                target = tuple(selected.index(i) for i, selected in zip(stack_index, stacked, strict=True))
                values[target] = read_tensor(name, inner_index)
        return values

    return read_slice


def _writer(
    group: list[tuple[WeightMapping, Any, tuple[int, ...]]], vocab_size: int, dtype: np.dtype | None
) -> LazyTensor:
    """Return the tensor that packs the parameters of `group`: (row, array, index in the stacked dims)."""
    row, leaf, _ = group[0]
    pattern = parse(row.pattern)
    num_parts = len(row.sections) or (1 if pattern is None else pattern.parts)
    if pattern is not None and len(group) != num_parts:
        raise DataError(f"{row.name} packs {num_parts} parameters, the key table has {len(group)}")
    target_dtype = np.dtype(dtype or leaf.dtype)

    def read_slice(_: Index) -> np.ndarray:
        parts = []
        for part_row, param, stack_index in group:
            values = np.asarray(param[stack_index] if stack_index else param)
            parts.append((values - (part_row.plus or 0)) / (part_row.times or 1))
        if pattern is None:
            (tensor,) = parts
            return tensor.astype(target_dtype)
        if row.sections:
            written = []
            for (part_row, param, _stack_index), part in zip(group, parts, strict=True):
                # The rows of one tensor may be split into different dims.
                own = parse(part_row.pattern) or pattern
                written.append(own.write([part], _sizes(own, part_row, param.shape, vocab_size)))
            return _join_sections(row, written).astype(target_dtype)
        sizes = _sizes(pattern, row, leaf.shape, vocab_size)
        # Cut off the rows that pad the vocabulary.
        parts = [part[tuple(slice(0, sizes[word]) for word in pattern.param_dims)] for part in parts]
        return pattern.write(parts, sizes).astype(target_dtype)

    return LazyTensor(_tensor_shape(row, leaf.shape, vocab_size), target_dtype, read_slice)
