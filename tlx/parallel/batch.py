"""Rows of the global batch: which of them this process builds, and how they become global arrays."""

from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding

from tlx.parallel.presets import ShardingRules
from tlx.parallel.sharding import spec


def batch_sharding(mesh: Mesh | AbstractMesh, rules: ShardingRules, batch: Any) -> Any:
    """NamedSharding of each array of a batch (real or abstract): rows split, the other dims whole.

    Raises ConfigError where the rows do not divide over the mesh's batch axes.
    """

    def sharding(leaf: Any) -> NamedSharding:
        names = ("batch",) + (None,) * (len(leaf.shape) - 1)
        layout = spec(names, leaf.shape, mesh, rules, f"batch of {leaf.shape[0]} rows")
        return NamedSharding(mesh, jax.P(*layout[:1]))

    return jax.tree.map(sharding, batch)


def local_rows(sharding: NamedSharding, batch_size: int) -> np.ndarray:
    """Indices, ascending, of the rows of the global batch that this process' devices hold. int64 [rows]"""
    indices = sharding.addressable_devices_indices_map((batch_size,)).values()
    return np.unique(np.concatenate([np.arange(batch_size)[index] for index in indices]))


def rows_by_process(sharding: NamedSharding, batch_size: int) -> dict[int, np.ndarray]:
    """What `local_rows` is on each process of the mesh."""
    held: dict[int, list[np.ndarray]] = {}
    for device, index in sharding.devices_indices_map((batch_size,)).items():
        held.setdefault(device.process_index, []).append(np.arange(batch_size)[index])
    return {process: np.unique(np.concatenate(rows)) for process, rows in sorted(held.items())}


def to_global(local: Any, sharding: Any) -> Any:
    """Global arrays from numpy arrays of `local_rows` alone; each device gets its rows and no others.

    `sharding` is one NamedSharding for all arrays, or a tree of them.
    """
    if isinstance(sharding, NamedSharding):
        sharding = jax.tree.map(lambda _: sharding, local)
    return jax.tree.map(_to_global, local, sharding)


def _to_global(rows: np.ndarray, sharding: NamedSharding) -> jax.Array:
    here = _num_parts(sharding, everywhere=False)
    if len(rows) % here:
        raise ValueError(f"{len(rows)} rows do not divide into the {here} parts that this process holds")
    batch_size = len(rows) // here * _num_parts(sharding, everywhere=True)
    held = local_rows(sharding, batch_size)

    def piece(index: tuple[slice, ...]) -> np.ndarray:
        start, stop, _ = index[0].indices(batch_size)
        first = int(np.searchsorted(held, start))
        return rows[(slice(first, first + stop - start), *index[1:])]

    return jax.make_array_from_callback((batch_size, *rows.shape[1:]), sharding, piece, dtype=rows.dtype)


def _num_parts(sharding: NamedSharding, everywhere: bool) -> int:
    """Number of different pieces that the rows are cut into: in all, or those on this process."""
    total = sharding.num_devices
    indices = (sharding.devices_indices_map if everywhere else sharding.addressable_devices_indices_map)(
        (total,)
    )
    return len({index[0].indices(total) for index in indices.values()})
