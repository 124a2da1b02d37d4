"""Matrices stored in 8 or 4 bits with scales in bfloat16, and computed with in full: int8, int4 and NF4.

A stored matrix is a StoredMatrix in the place of the array, in loaded and in frozen parameters. The module that owns
it dequantises it where it is used, inside the compiled function. Layers run in a scan, so that only one layer's
matrices are there in full at a time. qwix quantises.

    int8  one scale for each output of a matrix and for each row of a table
    int4  one scale for each output and 128 consecutive inputs; tables in int8
    nf4   one scale for each output and 64 consecutive inputs, values at quantiles of a normal distribution
          (QLoRA: Dettmers et al. 2023, arXiv:2305.14314, 3); tables in int8

Biases, norms, tables of positions, routers of experts and the heads of objectives and tasks stay as they are.
"""

import importlib.util
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, cast, get_args

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from tlx.base import tree
from tlx.base.errors import ConfigError, one_of
from tlx.base.tree import is_quantized
from tlx.parallel.sharding import Logical

WeightFormat = Literal["int8", "int4", "nf4"]
"""How the matrices of a model are stored."""

_LARGEST_TILES = {"int4": 128, "nf4": 64}
# Below, scales of 16 bits take more than a bit for each weight: such matrices are stored in int8.
_SMALLEST_TILE = 16
# The code of 0: codes of int4 are 0 to 15.
_INT4_ZERO = 8


class StoredMatrix(flax.struct.PyTreeNode):
    """A matrix, or a stack of them, in 8 or 4 bits: values times scales."""

    qvalue: Any
    """int8; or uint8 with two values of 4 bits: of each tile the first half in the low bits, the second in the high
    ones. Not int4, which XLA:CPU unpacks before a scan, all layers at once."""
    scale: Any
    """bfloat16, with as many indices in each dim as there are scales."""
    qtype: WeightFormat = flax.struct.field(pytree_node=False)
    """Type of the values."""
    tiled_dim: int = flax.struct.field(pytree_node=False, default=0)
    """Dim of tiles, negative, in which 4 bits are packed; 0: none."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the matrix in full."""
        shape = list(self.qvalue.shape)
        if self.tiled_dim:
            shape[self.tiled_dim] *= 2
        return tuple(shape)


class ArrayFormat(NamedTuple):
    """How one array is stored."""

    qtype: WeightFormat
    """Type of the values."""
    channel_dims: tuple[int, ...]
    """Dims with a scale for each index."""
    tiled_dim: int | None = None
    """Dim with a scale for each `tile` consecutive indices; over all other dims there is one scale."""
    tile: int = 0
    """Size of a tile."""


def check(name: str | None, field: str) -> None:
    """Raise ConfigError where a name is no format, or qwix is not installed.

    Args:
        name: "int8", "int4", "nf4"; "" and None: matrices are not quantised.
        field: Name of the argument or config key that holds it, for the message.
    """
    if not name:
        return
    if name not in get_args(WeightFormat):
        raise ConfigError(one_of(field, name, get_args(WeightFormat)))
    if importlib.util.find_spec("qwix") is None:
        raise ConfigError(f"{field} = {name!r} needs qwix: pip install 'tlx-lm[quantized]'")


def array_format(box: Any, name: str) -> ArrayFormat | None:
    """Return the format of a parameter in its box, real or abstract; None for one that stays as it is."""
    if not isinstance(box, Logical) or box.contracted is None:
        return None
    shape = box.value.shape
    contracted = tuple(len(shape) + dim for dim in box.contracted)
    channel_dims = tuple(dim for dim in range(len(shape)) if dim not in contracted)
    if name == "int8" or "vocab" in box.names:
        return ArrayFormat("int8", channel_dims)
    last = contracted[-1]
    # Even, for two values share a byte.
    sizes = range(2, min(_LARGEST_TILES[name], shape[last]) + 1, 2)
    tile = max((size for size in sizes if shape[last] % size == 0), default=1)
    if tile < _SMALLEST_TILE:
        return ArrayFormat("int8", channel_dims)
    channel_dims = tuple(dim for dim in range(len(shape)) if dim != last)
    return ArrayFormat(cast(WeightFormat, name), channel_dims, last, tile)


def array_formats(
    boxed: Any, name: str | None, is_kept: Callable[[str], bool] = lambda path: False
) -> dict[str, ArrayFormat]:
    """Return the format of each parameter of the model that is quantised.

    Args:
        boxed: Parameters {"model": ..., "heads": ...} in their boxes, real or abstract.
        name: Format of the matrices; "" and None: none is quantised.
        is_kept: Whether the parameter of a path stays as it is.

    Returns:
        {path: format}.
    """
    if not name:
        return {}
    formats = {}
    for path, box in tree.flatten(boxed, _is_box).items():
        format = array_format(box, name)
        if format is not None and path.startswith("model/") and not is_kept(path):
            formats[path] = format
    return formats


def param(
    module: nn.Module, name: str, init: Callable[..., jax.Array], shape: tuple[int, ...], dtype: Any
) -> Any:
    """Return a parameter of a module, a StoredMatrix where it is stored so.

    Args:
        module: The module that owns it.
        name: Its name.
        init: Its initialiser, with logical names.
        shape: Its shape in full.
        dtype: Its dtype in full.

    Returns:
        The parameter.
    """
    if module.has_variable("params", name):
        stored = module.get_variable("params", name)
        if is_quantized(stored):
            return stored
    return module.param(name, init, shape, dtype)


def quantize(x: jax.Array, format: ArrayFormat) -> StoredMatrix:
    """Return an array as it is stored in a format."""
    # Imported where it is used: an extra that most runs do not have.
    import qwix

    x = x.astype(jnp.float32)
    dim = format.tiled_dim
    if dim is None:
        stored = qwix.quantize(x, jnp.int8, channelwise_axes=format.channel_dims, scale_dtype=jnp.bfloat16)
        return StoredMatrix(stored.qvalue, stored.scale, "int8")
    tile_shape = (*x.shape[:dim], -1, format.tile, *x.shape[dim + 1 :])
    if format.qtype == "nf4":
        codes, scale = _nf4_codes(x.reshape(tile_shape), dim + 1)
    else:
        tiles = {dim: format.tile}
        stored = qwix.quantize(x, jnp.int4, channelwise_axes=format.channel_dims, tiled_axes=tiles)
        codes = (stored.qvalue.astype(jnp.int8) + _INT4_ZERO).reshape(tile_shape)
        scale = stored.scale
    low, high = jnp.split(codes.astype(jnp.uint8), 2, axis=dim + 1)
    packed = (low | high << 4).reshape(*x.shape[:dim], x.shape[dim] // 2, *x.shape[dim + 1 :])
    return StoredMatrix(packed, scale.astype(jnp.bfloat16), format.qtype, dim - x.ndim)


def quantized_shape(shape: tuple[int, ...], format: ArrayFormat) -> Any:
    """Return an abstract array of a shape as it is stored in a format."""
    like = jax.ShapeDtypeStruct(shape, jnp.dtype(jnp.float32))
    return jax.eval_shape(lambda x: quantize(x, format), like)


def dequantized(leaf: Any, dtype: Any) -> Any:
    """Return a stored matrix in full, in `dtype`; an array stays as it is."""
    if not is_quantized(leaf):
        return leaf
    dtype = jnp.dtype(dtype)
    scale = leaf.scale.astype(dtype)
    if not leaf.tiled_dim:
        return leaf.qvalue.astype(dtype) * scale
    shape = leaf.shape
    dim = len(shape) + leaf.tiled_dim
    packed = leaf.qvalue.reshape(*shape[:dim], scale.shape[dim], -1, *shape[dim + 1 :])
    codes = jnp.concatenate([packed & 15, packed >> 4], axis=dim + 1)
    values = _nf4_values(codes) if leaf.qtype == "nf4" else codes.astype(jnp.int8) - _INT4_ZERO
    return (values.astype(dtype) * jnp.expand_dims(scale, dim + 1)).reshape(shape)


def _nf4_codes(tiles: jax.Array, tile_dim: int) -> tuple[jax.Array, jax.Array]:
    """Return the codes of the nearest values of NF4, and the largest magnitude of each tile.

    Counted: qwix compares with all sixteen values at once, an array sixteen times as large.
    """
    largest = jnp.max(jnp.abs(tiles), axis=tile_dim)
    scale = jnp.where(largest > 0, largest, 1.0)
    values = tiles / jnp.expand_dims(scale, tile_dim)
    table = _nf4_table()
    codes = jnp.zeros(tiles.shape, jnp.uint8)
    for middle in (table[1:] + table[:-1]) / 2:
        codes += (values > middle).astype(jnp.uint8)
    return codes, scale


def _nf4_values(codes: jax.Array) -> jax.Array:
    """Return the values of NF4's codes, float32, chosen bit by bit: no compiler fuses a lookup with what reads it."""
    values: list[Any] = list(_nf4_table())
    for bit in range(4):
        is_set = (codes >> bit) & 1 == 1
        pairs = zip(values[::2], values[1::2], strict=True)
        values = [jnp.where(is_set, of_one, of_zero) for of_zero, of_one in pairs]
    return values[0]


def _nf4_table() -> np.ndarray:
    """Return the sixteen values of NF4, float32, rising."""
    import qwix

    # Computed now, also where a function is traced.
    with jax.ensure_compile_time_eval():
        codes = qwix.QArray(jnp.arange(16).astype(jnp.uint4), jnp.ones(1, jnp.float32), qtype="nf4")
        return np.asarray(qwix.dequantize(codes))


def dequantized_tree(params: Any, dtype: Any = "float32") -> Any:
    """Return parameters with every stored matrix in full."""
    return jax.tree.map(lambda leaf: dequantized(leaf, dtype), params, is_leaf=is_quantized)


def take_rows(table: Any, ids: jax.Array) -> jax.Array:
    """Return the rows `ids` of a table; of a stored one in float32, without dequantising the others."""
    if not is_quantized(table):
        return jnp.take(table, ids, axis=0)
    values = jnp.take(table.qvalue, ids, axis=0).astype(jnp.float32)
    return values * jnp.take(table.scale, ids, axis=0).astype(jnp.float32)


def quantized_shapes(
    boxed: Any, name: str | None, is_kept: Callable[[str], bool] = lambda path: False
) -> Any:
    """Return abstract parameters as they are stored, in boxes.

    Args:
        boxed: Abstract parameters in their boxes.
        name: As array_formats takes it.
        is_kept: As array_formats takes it.

    Returns:
        The tree, with a StoredMatrix of two boxes for each matrix that is quantised. Scales are sharded as their
        matrix is, but along tiles.
    """
    formats = array_formats(boxed, name, is_kept)

    def stored(path: Any, box: Any) -> Any:
        format = formats.get(tree.path_string(path))
        if format is None:
            return box
        shapes = quantized_shape(box.value.shape, format)
        dims = enumerate(box.names)
        scale_names = tuple(dim_name if dim in format.channel_dims else None for dim, dim_name in dims)
        return shapes.replace(
            qvalue=Logical(shapes.qvalue, box.names), scale=Logical(shapes.scale, scale_names)
        )

    return jax.tree_util.tree_map_with_path(stored, boxed, is_leaf=_is_box)


def _is_box(leaf: Any) -> bool:
    return isinstance(leaf, Logical)
