"""What a run says about its checkpoints."""

import dataclasses
from typing import Literal

from tlx.base.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """When to save, what to keep, how hard to check.

    every: steps between saves; 0 saves at the end and on preemption only.
    keep: the newest so many steps are kept.
    keep_every: steps divisible by it are kept for ever; 0 for none.
    keep_at: steps that are saved whatever `every` says, and kept for ever.
    verify: on reading, compare the "hash" of every file (1.5 GB/s a core) or only its "size".
    max_failures: so many failed saves in a row end the run with exit 73.
    """

    every: int = 1000
    keep: int = 3
    keep_every: int = 0
    keep_at: tuple[int, ...] = ()
    verify: Literal["hash", "size"] = "hash"
    max_failures: int = 3

    def validate(self) -> None:
        """Raises ConfigError naming the field, its value and what is legal."""
        for name, least in (("every", 0), ("keep", 1), ("keep_every", 0), ("max_failures", 1)):
            value = getattr(self, name)
            if value < least:
                raise ConfigError(f"config.checkpoint.{name} = {value} must be {least} or more")
        if min(self.keep_at, default=1) < 1:
            raise ConfigError(f"config.checkpoint.keep_at = {self.keep_at} must be steps from 1 up")
