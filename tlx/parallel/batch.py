"""Rows of the global batch: those that this process loads, and the global arrays made of them."""

from typing import Any, cast

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding

from tlx.parallel.presets import ShardingRules
from tlx.parallel.sharding import spec


def batch_sharding(mesh: Mesh | AbstractMesh, rules: ShardingRules, batch: Any) -> Any:
    """Choose the sharding of each array of a batch: rows are sharded, the other dims replicated.

    Args:
        mesh: The mesh.
        rules: Rules from logical names to mesh axes.
        batch: Arrays, real or abstract, [B, ...].

    Returns:
        NamedSharding of each array.

    Raises:
        ConfigError: B does not divide over the mesh axes of the batch.
    """

    def sharding(leaf: Any) -> NamedSharding:
        names = ("batch",) + (None,) * (len(leaf.shape) - 1)
        layout = spec(names, leaf.shape, mesh, rules, f"batch of {leaf.shape[0]} rows")
        return NamedSharding(mesh, jax.P(*layout[:1]))

    return jax.tree.map(sharding, batch)


def local_rows(sharding: NamedSharding, batch_size: int) -> np.ndarray:
    """Return the indices, ascending int64, of the global batch rows that this process' devices hold."""
    indices = sharding.addressable_devices_indices_map((batch_size,)).values()
    # Devices that hold replicas name the same rows; each is loaded once.
    return np.unique(np.concatenate([np.arange(batch_size)[index] for index in indices]))


def rows_by_process(sharding: NamedSharding, batch_size: int) -> dict[int, np.ndarray]:
    """Return `local_rows` of every process of the mesh."""
    held: dict[int, list[np.ndarray]] = {}
    for device, index in sharding.devices_indices_map((batch_size,)).items():
        held.setdefault(device.process_index, []).append(np.arange(batch_size)[index])
    return {process: np.unique(np.concatenate(rows)) for process, rows in sorted(held.items())}


def to_global(local: Any, sharding: Any) -> Any:
    """Build global arrays from numpy arrays of the local rows; each device gets its own rows only.

    `sharding` is one NamedSharding for all arrays, or a tree of them.
    """
    if isinstance(sharding, NamedSharding):
        sharding = jax.tree.map(lambda _: sharding, local)
    return jax.tree.map(_to_global, local, sharding)


def _to_global(rows: np.ndarray, sharding: NamedSharding) -> jax.Array:
    num_local = _num_shards(sharding, local=True)
    if len(rows) % num_local:
        raise ValueError(f"{len(rows)} rows do not divide into the {num_local} shards of this process")
    batch_size = len(rows) // num_local * _num_shards(sharding, local=False)
    local_indices = local_rows(sharding, batch_size)

    def shard(index: Any) -> np.ndarray:
        start, stop, _ = index[0].indices(batch_size)
        # A process' rows need not be neighbours: a device's shard begins where its first row stands among the
        # local ones.
        first = int(np.searchsorted(local_indices, start))
        return rows[(slice(first, first + stop - start), *index[1:])]

    return jax.make_array_from_callback((batch_size, *rows.shape[1:]), sharding, shard, dtype=rows.dtype)


def _num_shards(sharding: NamedSharding, local: bool) -> int:
    """Count the different shards of the rows: those of this process, or all."""
    total = sharding.num_devices
    if local:
        indices = sharding.addressable_devices_indices_map((total,))
    else:
        indices = sharding.devices_indices_map((total,))
    # JAX allows None as an index, which a sharding over a mesh never gives.
    return len({index[0].indices(total) for index in cast(dict[Any, Any], indices).values()})
