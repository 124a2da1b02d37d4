"""Bytes of a checkpoint, and the seconds in which the hosts of a run save, verify and restore it."""

from typing import Any, NamedTuple

from tlx.base import tree
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
    """Bytes that a host reads to restore: the shards of its devices, at most the whole state."""
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
        """Seconds to verify the checkpoint and read it into the devices."""
        return self.verify_seconds + self.restored_bytes_per_host / self.storage_rate

    def to_json(self) -> dict[str, Any]:
        """Return the figures by name."""
        return {
            "state_bytes": self.state_bytes,
            "hosts": self.hosts,
            "bytes_per_host": self.bytes_per_host,
            "restored_bytes_per_host": self.restored_bytes_per_host,
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
    restored = min(state_bytes, footprint.device_bytes(saved) * devices_per_host)
    return CheckpointCosts(state_bytes, target.hosts, restored)
