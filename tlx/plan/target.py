"""The hardware that is planned for, as a text: tpu:v5e:16x16, gpu:h200:8x8, cpu:8."""

import dataclasses
import math
import re

from tlx.base.chips import Chip, chip, chips
from tlx.base.errors import ConfigError, one_of

_SLICES = re.compile(r"\s*x\s*(\d+)\s*slices?$")
_FORMS = "tpu:CHIP:AxB or AxBxC, the same x N slices, gpu:CHIP:GPUS or HOSTSxGPUS, cpu:DEVICES"
# Legal sides of a TPU slice: hosts hold 2 x 2 chips (of a 3-D torus) or 2 x 4 (of a 2-D one).
_SIDES = {2: (1, 2, 4, 8, 16), 3: (1, 2, 4, 8, 12, 16, 20, 24)}
# Other names of chips.
_ALIASES = {"7x": "tpu7x", "v7x": "tpu7x", "v5litepod": "v5e"}


@dataclasses.dataclass(frozen=True)
class Target:
    """Hardware that is planned for."""

    text: str
    """As it was written."""
    chip: Chip
    """Row of the table of chips."""
    shape: tuple[int, ...]
    """Sides of a TPU slice; (hosts, GPUs of a host); (devices,) of CPUs."""
    slices: int = 1
    """Number of TPU slices; 1 elsewhere."""

    @property
    def platform(self) -> str:
        """Return "tpu", "gpu" or "cpu"."""
        return self.chip.platform

    @property
    def num_chips(self) -> int:
        """Number of chips of all slices."""
        return math.prod(self.shape) * self.slices

    @property
    def num_devices(self) -> int:
        """Number of JAX devices; some kinds of chip have two each."""
        return self.num_chips * self.chip.devices

    @property
    def hosts(self) -> int:
        """Number of hosts."""
        if self.platform == "gpu":
            return self.shape[0]
        return -(-math.prod(self.shape) // self.chip.chips_per_host) * self.slices

    @property
    def islands(self) -> int:
        """Number of groups of chips that the fast network joins."""
        return self.shape[0] if self.platform == "gpu" else self.slices

    @property
    def device_flops(self) -> float:
        """Dense bfloat16 FLOP/s of one device."""
        return self.chip.bf16_flops / self.chip.devices


def parse_target(text: str) -> Target:
    """Return the target that a text names; ConfigError with the form, the legal chips and the nearest one."""
    body = text.strip().lower()
    slices = 1
    if match := _SLICES.search(body):
        body = body[: match.start()]
        slices = int(match[1])
    words = [word.strip() for word in body.split(":")]
    kind = None
    if words[0] in ("tpu", "gpu") and len(words) > 1:
        kind = words.pop(0)
    name = _ALIASES.get(words[0], words[0])
    known = [row.name for row in chips().values() if kind in (None, row.platform)]
    if name not in known or len(words) > 2:
        raise ConfigError(f"--target={text!r}: {one_of('chip', name, known)}; a target is {_FORMS}")
    row = chip(name)
    sides = _numbers(text, words[1]) if len(words) == 2 else None
    if slices < 1 or slices > 1 and row.platform != "tpu":
        raise ConfigError(f"--target={text!r}: slices are of TPUs, 1 or more; a target is {_FORMS}")
    shape_of = {"tpu": _tpu_shape, "gpu": _gpu_shape, "cpu": _cpu_shape}[row.platform]
    return Target(text.strip(), row, shape_of(text, row, sides), slices)


def _numbers(text: str, word: str) -> tuple[int, ...]:
    """Parse "16x16"."""
    sides = word.split("x")
    if not all(side.isdigit() and int(side) for side in sides):
        raise ConfigError(f"--target={text!r}: {word!r} is no number of devices; a target is {_FORMS}")
    return tuple(map(int, sides))


def _tpu_shape(text: str, row: Chip, sides: tuple[int, ...] | None) -> tuple[int, ...]:
    """Return the sides of a slice; of one host where none are named."""
    sides = sides or {2: (2, 4), 3: (2, 2, 1)}[row.torus]
    legal = _SIDES[row.torus]
    if len(sides) != row.torus or any(side not in legal for side in sides):
        example = {2: "16x16", 3: "8x16x16"}[row.torus]
        raise ConfigError(
            f"--target={text!r}: a slice of {row.name} has {row.torus} sides among "
            f"{', '.join(map(str, legal))}, such as tpu:{row.name}:{example}"
        )
    return sides


def _gpu_shape(text: str, row: Chip, sides: tuple[int, ...] | None) -> tuple[int, ...]:
    """Return (hosts, GPUs of a host); one full host where none are named."""
    sides = sides or (row.chips_per_host,)
    sides = (1, *sides) if len(sides) == 1 else sides
    if len(sides) != 2 or sides[1] > row.chips_per_host:
        raise ConfigError(
            f"--target={text!r}: hosts of {row.name} have up to {row.chips_per_host} GPUs; "
            f"say gpu:{row.name}:HOSTSxGPUS, such as gpu:{row.name}:8x{row.chips_per_host}"
        )
    return sides


def _cpu_shape(text: str, row: Chip, sides: tuple[int, ...] | None) -> tuple[int, ...]:
    """Return (devices,); one device where none are named."""
    if sides is not None and len(sides) != 1:
        raise ConfigError(f"--target={text!r}: simulated devices are one number, as in cpu:8")
    return sides or (1,)
