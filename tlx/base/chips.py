"""Specifications of accelerators: chips.json beside this file, with the source of every row."""

import dataclasses
import functools
import json
import pathlib

from tlx.base.errors import ConfigError, one_of


@dataclasses.dataclass(frozen=True)
class Chip:
    """Specification of one kind of chip; 0 where the manufacturer publishes no value."""

    name: str
    """Name of the row."""
    platform: str
    """Platform in JAX: "tpu", "gpu" or "cpu"."""
    names: tuple[str, ...]
    """Parts of JAX's `device_kind` that identify the chip."""
    accelerator_type: str
    """Prefix of the accelerator types of Cloud TPU slices; empty for other platforms."""
    devices: int
    """JAX devices per chip."""
    chips_per_host: int
    """Chips of one host."""
    torus: int
    """Dimensions of the network between the chips of a slice; 0: all to all within a host."""
    memory: int
    """Device memory, in bytes."""
    memory_usable: int
    """Device memory that the compiler gives a program, in bytes."""
    memory_bandwidth: float
    """Bandwidth of device memory, in bytes/s."""
    bf16_flops: float
    """Peak of dense bfloat16 products, in FLOP/s."""
    int8_ops: float
    """Peak of dense int8 products, in operations/s."""
    clock_hz: float
    """Clock frequency, in Hz."""
    link_bandwidth: float
    """Bandwidth out of a chip over the fast network, in bytes/s."""
    network_bandwidth: float
    """Bandwidth of the host's network divided by its chips, in bytes/s."""
    watts: float
    """Power, in watts."""
    source: str
    """Source of the values."""


@functools.cache
def chips() -> dict[str, Chip]:
    """Return all rows of the table by name."""
    rows = json.loads(pathlib.Path(__file__).with_name("chips.json").read_text())["chips"]
    return {name: Chip(name=name, **row | {"names": tuple(row["names"])}) for name, row in rows.items()}


def chip(name: str, field: str = "chip") -> Chip:
    """Return the row of a name. Raises ConfigError with the legal names; `field` is the config key."""
    if name not in chips():
        raise ConfigError(one_of(field, name, chips()))
    return chips()[name]


def chip_name(accelerator: str) -> str:
    """Return the name of a row by Cloud's accelerator type ("v6e-256") or GKE's accelerator ("tpu-v6e-slice").

    "" where there is none.
    """
    for row in chips().values():
        if row.accelerator_type and accelerator.startswith(f"{row.accelerator_type}-"):
            return row.name
    found = chip_of(accelerator.replace("-", " "))
    return found.name if found else ""


def chip_of(device_kind: str) -> Chip | None:
    """Return the row of a JAX device's `device_kind`, by the longest matching name; None if there is none."""
    matches = [
        (len(part), row)
        for row in chips().values()
        for part in row.names
        if part.lower() in device_kind.lower()
    ]
    if not matches:
        return None
    return max(matches, key=lambda pair: pair[0])[1]
