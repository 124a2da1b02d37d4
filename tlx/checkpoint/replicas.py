"""Restore with replicas: one replica reads a leaf from the store and sends it to the others over the network.

Replicas are what the mesh axis "data" makes. The leaves are dealt out among them, so that all hosts share the reading
and each byte of the checkpoint is read once, not once a replica.

Orbax 0.12.8 has this too (`array.loading.use_load_and_broadcast`). It does not serve here: it adds zeros to values,
which makes 0.0 of -0.0 and int32 of int8, refuses leaves that are sharded over the axis of replicas (memories of
recurrent models), and one replica reads all.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tlx.base import tree as trees
from tlx.base.place import Place
from tlx.checkpoint import store
from tlx.parallel import consensus

AXIS = "data"
# Bytes below which every process reads a leaf itself: asking for it costs more than its bytes.
SMALL = 4096
# Bytes a device of the leaves that are sent at a time. While they are, a device holds them up to three times.
_AT_A_TIME = 1 << 28


class ReplicatedLeaf(NamedTuple):
    """A leaf of which every replica holds all shards."""

    path: str
    """Path of the leaf in the state."""
    abstract: jax.ShapeDtypeStruct
    """Shape, dtype and sharding over the whole mesh."""
    replica: int
    """Index of the replica that reads it."""

    @property
    def sharding(self) -> NamedSharding:
        """The sharding over the whole mesh."""
        sharding = self.abstract.sharding
        assert isinstance(sharding, NamedSharding)
        return sharding

    @property
    def read_sharding(self) -> NamedSharding:
        """The same sharding over the devices of the replica that reads it."""
        mesh = self.sharding.mesh
        assert isinstance(mesh, Mesh)
        devices = np.take(mesh.devices, [self.replica], axis=mesh.axis_names.index(AXIS))
        return NamedSharding(Mesh(devices, mesh.axis_names, axis_types=mesh.axis_types), self.sharding.spec)


def load(folder: Place, parts: dict[str, Any]) -> dict[str, Any]:
    """Load the named parts, each leaf with the sharding of its abstract leaf, or as numpy without one.

    All processes call this. Where several processes hold replicas of a leaf, one replica reads it.

    Args:
        folder: Folder of the step.
        parts: Nested dicts of ShapeDtypeStructs by name of the part.

    Returns:
        The parts.

    Raises:
        OSError: Another process could not read its share; that process raises the reason.
    """
    leaves = trees.flatten(parts)
    replicated = replicated_leaves(leaves)
    if not replicated:
        return store.load(folder, parts)
    wanted = dict(leaves)
    for leaf in replicated:
        del wanted[leaf.path]
        # jax has no array of which a process holds nothing.
        if leaf.read_sharding.addressable_devices:
            wanted[leaf.path] = _with_sharding(leaf.abstract, leaf.read_sharding)
    loaded: dict[str, Any] = {}
    failure: Exception | None = None
    try:
        loaded = trees.flatten(store.load(folder, trees.unflatten(wanted), partial=True))
    except Exception as error:
        failure = error
    # Sending is a collective, in which the other processes would wait for one that has failed.
    if not consensus.all_processes(failure is None):
        raise failure or OSError("another process could not read its share of the checkpoint")
    for group in _groups(replicated):
        received = send(group, [loaded.pop(leaf.path, None) for leaf in group])
        loaded |= {leaf.path: array for leaf, array in zip(group, received, strict=True)}
    return trees.unflatten({path: loaded[path] for path in leaves})


def replicated_leaves(leaves: Mapping[str, Any]) -> list[ReplicatedLeaf]:
    """Return the leaves that one replica is to read, in the order of their paths; the same on all processes.

    Args:
        leaves: Abstract leaves by path.

    Returns:
        Leaves of which some process need not read anything. At least one leaf is not among them, for all processes
        call Orbax together, and it loads no empty tree.
    """
    largest_first = sorted(leaves, key=lambda path: (-_num_bytes(leaves[path]), path))
    paths = [path for path in largest_first[:-1] if _has_replicas(leaves[path])]
    paths = [path for path in paths if leaves[path].shape and _num_bytes(leaves[path]) >= SMALL]
    if not paths:
        return []
    sizes = {path: _num_bytes(leaves[path]) for path in paths}
    readers = readers_of(sizes, num_replicas(leaves[paths[0]]))
    return [ReplicatedLeaf(path, leaves[path], readers[path]) for path in sorted(paths)]


def num_replicas(leaf: Any) -> int:
    """Return the number of replicas that the mesh of a leaf makes of it; 1 where it is sharded over their axis."""
    sharding: Any = getattr(leaf, "sharding", None)
    if not isinstance(sharding, NamedSharding) or AXIS not in sharding.mesh.axis_names:
        return 1
    used = [axis for axes in sharding.spec for axis in (axes if isinstance(axes, tuple) else (axes,))]
    return 1 if AXIS in used else sharding.mesh.shape[AXIS]


def readers_of(sizes: Mapping[str, int], replicas: int) -> dict[str, int]:
    """Deal leaves out among replicas, the largest first, each to the replica that has least to read.

    Args:
        sizes: Bytes of the leaves by path.
        replicas: Number of replicas.

    Returns:
        Index of the replica that reads each leaf, by path.
    """
    loads = [0] * replicas
    readers = {}
    for path in sorted(sizes, key=lambda path: (-sizes[path], path)):
        readers[path] = loads.index(min(loads))
        loads[readers[path]] += sizes[path]
    return readers


def send(leaves: Sequence[ReplicatedLeaf], read: Sequence[jax.Array | None]) -> list[jax.Array]:
    """Send leaves from the replicas that have read them to all; all processes call this.

    Args:
        leaves: Leaves of one mesh.
        read: Each of them over the devices of its replica; None on processes that have none of these.

    Returns:
        The leaves over the whole mesh, bit for bit.
    """
    mesh = leaves[0].sharding.mesh
    specs = tuple(_joined_spec(leaf.sharding.spec) for leaf in leaves)

    def summed(*shards: jax.Array) -> tuple[jax.Array, ...]:
        return tuple(_sum_of_bits(shard) for shard in shards)

    program = jax.shard_map(
        summed,
        mesh=mesh,
        in_specs=specs,
        out_specs=tuple(leaf.sharding.spec for leaf in leaves),
        check_vma=False,
    )
    joined = [
        _joined(leaf, array, NamedSharding(mesh, spec))
        for leaf, array, spec in zip(leaves, read, specs, strict=True)
    ]
    received = jax.jit(program, out_shardings=tuple(leaf.sharding for leaf in leaves))(*joined)
    # The next leaves are not to be on the devices before these have arrived.
    return list(jax.block_until_ready(received))


def _sum_of_bits(shard: jax.Array) -> jax.Array:
    """Add the bits of all replicas as integers, of which all but the reader's are 0: a sum of floats loses -0.0."""
    dtype = shard.dtype
    if dtype == jnp.bool_:
        return jax.lax.psum(shard.astype(jnp.uint32), AXIS).astype(jnp.bool_)
    unsigned = jnp.dtype(f"uint{8 * dtype.itemsize}")
    bits = jax.lax.bitcast_convert_type(shard, unsigned)
    # Collectives of CPUs know no integers of 16 bits.
    wide = bits.astype(jnp.uint32) if dtype.itemsize < 4 else bits
    return jax.lax.bitcast_convert_type(jax.lax.psum(wide, AXIS).astype(unsigned), dtype)


def _joined_spec(spec: PartitionSpec) -> PartitionSpec:
    """Return the spec of all replicas of a leaf joined along its first dim."""
    first = spec[0] if len(spec) else None
    axes = first if isinstance(first, tuple) else (first,) if first else ()
    return PartitionSpec((AXIS, *axes), *spec[1:])


def _joined(leaf: ReplicatedLeaf, read: jax.Array | None, sharding: NamedSharding) -> jax.Array:
    """Return all replicas of a leaf joined along its first dim: what was read, and zeros for the others.

    Each shard is the device's own, without an operation on it, which a mesh in the context would not allow.
    """
    first, *others = leaf.abstract.shape
    shape = (first * sharding.mesh.shape[AXIS], *others)
    dtype = leaf.abstract.dtype
    shards = {} if read is None else {shard.device: shard.data for shard in read.addressable_shards}
    buffers = [
        shards[device]
        if device in shards
        else jax.device_put(np.zeros(sharding.shard_shape(shape), dtype), device)
        for device in sharding.addressable_devices_indices_map(shape)
    ]
    return jax.make_array_from_single_device_arrays(shape, sharding, buffers, dtype=dtype)


def _groups(leaves: Sequence[ReplicatedLeaf]) -> list[list[ReplicatedLeaf]]:
    """Split leaves into groups that a device has memory for."""
    groups: list[list[ReplicatedLeaf]] = []
    size = 0
    for leaf in leaves:
        shard = trees.array_bytes(leaf.sharding.shard_shape(leaf.abstract.shape), leaf.abstract.dtype)
        if not groups or size + shard > _AT_A_TIME:
            groups.append([])
            size = 0
        groups[-1].append(leaf)
        size += shard
    return groups


def _has_replicas(leaf: Any) -> bool:
    """Return whether some process would read what is on no device of its own, if a single replica read the leaf."""
    if num_replicas(leaf) == 1:
        return False
    mesh = leaf.sharding.mesh
    by_replica = np.moveaxis(mesh.devices, mesh.axis_names.index(AXIS), 0).reshape(num_replicas(leaf), -1)
    owners = [{device.process_index for device in replica} for replica in by_replica]
    return len(set.union(*owners)) > min(map(len, owners))


def _num_bytes(leaf: Any) -> int:
    return trees.array_bytes(leaf.shape, leaf.dtype)


def _with_sharding(leaf: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
