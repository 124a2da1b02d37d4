"""Bytes of a checkpoint, and the seconds in which the hosts of a run save, verify and restore it."""

from typing import Any, NamedTuple

from tlx.base import tree
from tlx.checkpoint import replicas
from tlx.plan import footprint
from tlx.plan.footprint import Program
from tlx.plan.target import Target
from tlx.training.state import saved_part

# Bytes a second that a host reads from or writes to its storage, where nothing else is said.
STORAGE_RATE = 1e9
# Bytes a second of sha256 on one core: 1.29 GB/s, measured on a Xeon with SHA instructions (29 November 2026).
HASH_RATE = 1.29e9


class CheckpointCosts(NamedTuple):
    """Bytes and seconds of one checkpoint. All replicas share the writing, and the hashing."""

    state_bytes: int
    """Bytes of the checkpoint: parameters, optimizer state, carry and averages, each once."""
    hosts: int
    """Number of hosts."""
    restored_bytes_per_host: int
    """Most bytes that a host reads to restore: its shards of the leaves that its replica reads for all."""
    held_bytes_per_host: int
    """Bytes of the shards that the devices of a host hold, at most the whole state; what it does not read is sent by
    another replica."""
    storage_rate: float = STORAGE_RATE
    """Bytes a second that a host reads or writes."""

    @property
    def bytes_per_host(self) -> int:
        """Bytes that a host writes."""
        return -(-self.state_bytes // self.hosts)

    @property
    def save_seconds(self) -> float:
        """Seconds until a save is sealed: written, then read back and hashed. Training goes on meanwhile."""
        return self.bytes_per_host / self.storage_rate + self.verify_seconds

    @property
    def verify_seconds(self) -> float:
        """Seconds to read and hash a host's share of the files, which a start does first."""
        return self.bytes_per_host / min(self.storage_rate, HASH_RATE)

    @property
    def restore_seconds(self) -> float:
        """Seconds to verify the checkpoint and read it into the devices, without those of sending it to replicas."""
        return self.verify_seconds + self.restored_bytes_per_host / self.storage_rate

    def to_json(self) -> dict[str, Any]:
        """Return the figures by name."""
        return {
            "state_bytes": self.state_bytes,
            "hosts": self.hosts,
            "bytes_per_host": self.bytes_per_host,
            "restored_bytes_per_host": self.restored_bytes_per_host,
            "held_bytes_per_host": self.held_bytes_per_host,
            "storage_rate": self.storage_rate,
            "save_seconds": self.save_seconds,
            "verify_seconds": self.verify_seconds,
            "restore_seconds": self.restore_seconds,
        }


def checkpoint_costs(program: Program, target: Target) -> CheckpointCosts:
    """Return the costs of a checkpoint of a run on a target.

    Args:
        program: The run's program on a mesh of the target.
        target: Hardware that is planned for.
    """
    saved = saved_part(program.state)
    state_bytes = tree.num_bytes(saved)
    devices_per_host = target.num_devices // target.hosts
    held = min(state_bytes, footprint.device_bytes(saved) * devices_per_host)
    restored = min(held, _read_by_a_host(saved, target.hosts, devices_per_host))
    return CheckpointCosts(state_bytes, target.hosts, restored, held)


def _read_by_a_host(saved: Any, hosts: int, devices_per_host: int) -> int:
    """Return the most bytes that a host reads, where hosts are neighbours along the axis of replicas last.

    Args:
        saved: Abstract leaves with shardings.
        hosts: Number of hosts.
        devices_per_host: Number of devices of each.

    Returns:
        Bytes of the leaves that are read by the replicas on the host, and of its shards of those without replicas.
    """
    leaves = tree.flatten(saved)
    shards = {
        path: tree.array_bytes(leaf.sharding.shard_shape(leaf.shape), leaf.dtype)
        for path, leaf in leaves.items()
    }
    count = max(replicas.num_replicas(leaf) for leaf in leaves.values())
    # A host has devices of several replicas where there are fewer hosts than replicas.
    on_a_host = -(-count // hosts)
    shared = {
        path: tree.num_bytes(leaf)
        for path, leaf in leaves.items()
        if replicas.num_replicas(leaf) > on_a_host and tree.num_bytes(leaf) >= replicas.SMALL
    }
    readers = replicas.readers_of(shared, count)
    unshared = devices_per_host * sum(size for path, size in shards.items() if path not in shared)
    loads = [0] * (count // on_a_host)
    for path, replica in readers.items():
        loads[replica // on_a_host] += shards[path] * devices_per_host // on_a_host
    return unshared + max(loads)
