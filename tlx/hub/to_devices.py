"""Parameters read onto devices tensor by tensor, as they are or quantised, so that the host holds few of them."""

import functools
import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from tlx.base import tree
from tlx.base.tree import is_quantized
from tlx.hub.weights import Index, LazyTensor
from tlx.nn import weight_formats
from tlx.nn.weight_formats import ArrayFormat

PIECE_BYTES = 2**22
"""Size in bytes of the slices that are quantised at a time; in float32 and as rounding they take several times as
many."""


def to_devices(
    params: Mapping[str, Any],
    formats: Mapping[str, ArrayFormat],
    shardings: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Read parameters onto devices, one after the other.

    Args:
        params: {path: LazyTensor, which is read on demand, or StoredMatrix}.
        formats: {path: format} of tensors that are quantised.
        shardings: {path: sharding}, a StoredMatrix of two where a parameter is quantised; None: the default device.
        progress: Whether to show a progress bar.

    Returns:
        Nested dicts of arrays, with a StoredMatrix for each quantised one.
    """
    # The largest first: two copies of a checkpoint's are there while it is read, and then little else is.
    ordered = sorted(params.items(), key=lambda item: -math.prod(item[1].shape))
    leaves = tqdm.tqdm(ordered, "reading", unit="parameter", disable=not progress, leave=False)
    arrays = {}
    for path, leaf in leaves:
        sharding = None if shardings is None else shardings[path]
        if is_quantized(leaf):
            arrays[path] = jax.device_put(leaf, sharding)
        elif path in formats:
            arrays[path] = read_quantized(leaf, formats[path], sharding)
        elif sharding is None:
            arrays[path] = jax.device_put(leaf.read())
        else:
            arrays[path] = leaf.to_devices(sharding)
    return tree.unflatten(arrays)


def to_host(
    params: Mapping[str, LazyTensor], formats: Mapping[str, ArrayFormat], progress: bool = False
) -> dict[str, Any]:
    """Read parameters into host memory, quantised on this process's first device.

    Args:
        params: {path: parameter that is read on demand}.
        formats: {path: format} of those that are quantised.
        progress: Whether to show a progress bar.

    Returns:
        Nested dicts of numpy arrays, with a StoredMatrix on the CPU for each quantised one.
    """
    leaves = tqdm.tqdm(params.items(), "reading", unit="parameter", disable=not progress, leave=False)
    host = jax.local_devices(backend="cpu")[0]
    arrays = {}
    for path, leaf in leaves:
        if path not in formats:
            arrays[path] = leaf.read()
            continue
        with jax.default_device(jax.local_devices()[0]):
            arrays[path] = jax.device_put(read_quantized(leaf, formats[path]), host)
    return tree.unflatten(arrays)


def read_quantized(leaf: LazyTensor, format: ArrayFormat, shardings: Any = None) -> Any:
    """Read a parameter and quantise it in pieces, where it is to stay: neither it nor a copy is ever there in full.

    Args:
        leaf: The parameter.
        format: How it is stored.
        shardings: StoredMatrix of the shardings of its values and scales; None: the default device.

    Returns:
        The StoredMatrix.
    """
    if shardings is None:
        return _quantized_pieces(leaf, format)
    # On the host and then shard by shard: every device receives its own only.
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        on_host = _quantized_pieces(leaf, format)

    def shard(array: jax.Array, sharding: Any) -> jax.Array:
        return jax.make_array_from_callback(array.shape, sharding, lambda index: np.asarray(array[index]))

    return jax.tree.map(shard, on_host, shardings)


def pieces(shape: tuple[int, ...], itemsize: int, format: ArrayFormat) -> Iterator[Index]:
    """Yield slices of about PIECE_BYTES that together cover an array and cut no group of one scale.

    Args:
        shape: Shape of the array.
        itemsize: Bytes of a scalar.
        format: How the array is stored.

    Yields:
        An index, one slice for each dim.
    """
    steps = list(shape)
    for dim in range(len(shape)):
        smallest = 1 if dim in format.channel_dims else format.tile if dim == format.tiled_dim else 0
        piece_bytes = itemsize * math.prod(steps)
        if smallest and piece_bytes > PIECE_BYTES:
            wanted = PIECE_BYTES * steps[dim] // piece_bytes
            steps[dim] = max(smallest, wanted - wanted % smallest)
    starts = [range(0, size, step) for size, step in zip(shape, steps, strict=True)]
    for corner in itertools.product(*starts):
        ends = [min(start + step, size) for start, step, size in zip(corner, steps, shape, strict=True)]
        yield tuple(map(slice, corner, ends))


def _quantized_pieces(leaf: LazyTensor, format: ArrayFormat) -> Any:
    """Return a quantised parameter on the default device."""
    shapes = weight_formats.quantized_shape(leaf.shape, format)
    target = jax.jit(lambda: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes))()
    for index in pieces(leaf.shape, leaf.dtype.itemsize, format):
        starts = np.array([part.start for part in index], np.int32)
        target = _with_piece(target, leaf.read(index), starts, format)
        # Before the next one is read: pieces would wait in memory for their turn.
        jax.block_until_ready(target)
    return target


@functools.partial(jax.jit, static_argnames="format", donate_argnums=0)
def _with_piece(target: Any, piece: jax.Array, starts: jax.Array, format: ArrayFormat) -> Any:
    """Return a StoredMatrix with a piece quantised into it, in the same memory."""
    stored = weight_formats.quantize(piece, format)

    value_starts = []
    scale_starts = []
    for dim in range(piece.ndim):
        is_tiled = dim == format.tiled_dim
        # Two values share a byte, and a tile a scale.
        value_starts.append(starts[dim] // 2 if is_tiled else starts[dim])
        group = format.tile if is_tiled else 1
        scale_starts.append(starts[dim] // group if is_tiled or dim in format.channel_dims else 0)
    update = jax.lax.dynamic_update_slice
    return target.replace(
        qvalue=update(target.qvalue, stored.qvalue, value_starts),
        scale=update(target.scale, stored.scale, scale_starts),
    )
