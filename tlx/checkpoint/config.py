"""Config of the checkpoints of a run."""

import dataclasses
from typing import Literal

from tlx.base.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """When checkpoints are saved, which are kept, and how they are verified."""

    every: int = 1000
    """Steps between saves; 0 saves at the end and on preemption only."""
    minutes: float = 0.0
    """Longest time between saves in minutes, by the clock of the first process: a save is made where no other was
    for so long. Counts besides `every`; 0: saves go by steps alone."""
    keep: int = 3
    """Number of newest checkpoints that are kept, 1 or more."""
    keep_every: int = 0
    """Checkpoints of steps that this divides are never deleted; 0: none."""
    keep_at: tuple[int, ...] = ()
    """Steps that are saved whatever `every` says, and never deleted."""
    keep_best: bool = False
    """Whether the step with the best evaluation (by eval.metric) is saved whatever `every` says, named in
    best.json, and never deleted; step="best" loads it."""
    local_every: int = 0
    """Steps between saves to the hosts' own memory or disks (the emergency tier): each process keeps its shards, and
    another host a copy of those that no replica holds. A restart takes the newest step of which all shards are left,
    or else a checkpoint. 0: none."""
    local_folder: str = "/dev/shm/tlx"
    """Folder of each host for `local_every`; variables of the environment in it are replaced. It must outlive the
    processes: /dev/shm is memory of the host, which a container or a reboot loses."""
    verify: Literal["hash", "size"] = "hash"
    """Property of every file that is compared on reading: its sha256 (1.5 GB/s and core) or only its size."""
    max_failures: int = 3
    """Number of failed saves in a row that ends the run with exit code 73, 1 or more."""

    def validate(self) -> None:
        """Raise ConfigError, naming the field, its value and the legal ones, where a value is not usable."""
        for name, least in (
            ("every", 0),
            ("minutes", 0),
            ("keep", 1),
            ("keep_every", 0),
            ("max_failures", 1),
            ("local_every", 0),
        ):
            value = getattr(self, name)
            if value < least:
                raise ConfigError(f"config.checkpoint.{name} = {value} must be {least} or more")
        if min(self.keep_at, default=1) < 1:
            raise ConfigError(f"config.checkpoint.keep_at = {self.keep_at} must be steps from 1 up")
        if not self.local_folder or "://" in self.local_folder:
            raise ConfigError(
                f"config.checkpoint.local_folder = {self.local_folder!r} must be a folder of each host, such as "
                "/dev/shm/tlx or $TMPDIR/tlx: buckets have the checkpoints"
            )
