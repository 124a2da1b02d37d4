"""What is known of each kind of chip: chips.json beside this file, with the source of every row."""

import dataclasses
import functools
import json
import pathlib

from tlx.base.errors import ConfigError, one_of


@dataclasses.dataclass(frozen=True)
class Chip:
    """One kind of chip. Bytes, FLOP/s (dense), bytes/s; zero where the maker says nothing."""

    name: str
    platform: str  # "tpu", "gpu" or "cpu"
    names: tuple[str, ...]  # how a device's kind names it
    accelerator_type: str  # of a TPU: what a slice's name begins with
    devices: int  # that JAX shows for a chip
    chips_per_host: int
    torus: int  # dims of the network between the chips of a slice; 0: all to all within a host
    memory: int
    memory_usable: int  # what the compiler lets a program have
    memory_bandwidth: float
    bf16_flops: float
    int8_ops: float
    clock_hz: float
    link_bandwidth: float  # out of a chip over the fast network
    network_bandwidth: float  # a chip's share of its host's network
    watts: float
    source: str


@functools.cache
def chips() -> dict[str, Chip]:
    """All rows of the table, by name."""
    rows = json.loads(pathlib.Path(__file__).with_name("chips.json").read_text())["chips"]
    return {name: Chip(name=name, **row | {"names": tuple(row["names"])}) for name, row in rows.items()}


def chip(name: str, field: str = "chip") -> Chip:
    """The row of that name; ConfigError with the legal ones."""
    if name not in chips():
        raise ConfigError(one_of(field, name, chips()))
    return chips()[name]


def chip_of(device_kind: str) -> Chip | None:
    """The row that a JAX device's `device_kind` belongs to; None for one that is not in the table."""
    found = [
        (len(part), row)
        for row in chips().values()
        for part in row.names
        if part.lower() in device_kind.lower()
    ]
    return max(found, key=lambda pair: pair[0])[1] if found else None
