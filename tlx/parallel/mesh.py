"""Device meshes, whose busiest axes are on the fastest links."""

import collections
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh

from tlx.base.errors import ConfigError
from tlx.parallel.config import MeshConfig
from tlx.parallel.presets import AXES


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """Build the mesh of a config over devices, by default those of all processes, with Auto axes.

    With several slices, each axis' slices vary slowest. Raises ConfigError where the devices do not fit.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = config.sizes(len(devices))
    slices = config.slices(len(devices))
    inner = [sizes[axis] // slices[axis] for axis in AXES]
    outer = [slices[axis] for axis in AXES]
    num_slices = _count(devices, "slice_index")
    if config.num_slices == 1:
        if num_slices > 1 and devices[0].platform == "tpu":
            raise ConfigError(
                f"mesh.num_slices = 1, but the devices form {num_slices} slices: set it to {num_slices}"
            )
        # JAX knows the torus: it lays neighbours of an axis on neighbouring chips.
        grid = mesh_utils.create_device_mesh(inner, devices, allow_split_physical_axes=True)
        return _mesh(grid)
    processes = _count(devices, "process_index")
    if config.num_slices not in (num_slices, processes):
        raise ConfigError(
            f"mesh.num_slices = {config.num_slices}, but the devices form {num_slices} slices "
            f"and belong to {processes} processes: one of 1, {num_slices}, {processes}"
        )
    # On GPUs a host is what a slice is on TPUs: the fast network ends there.
    _check_even(devices, "slice_index" if config.num_slices == num_slices else "process_index")
    grid = mesh_utils.create_hybrid_device_mesh(
        inner,
        outer,
        devices,
        process_is_granule=config.num_slices != num_slices,
        allow_split_physical_axes=True,
    )
    return _mesh(grid)


def abstract_mesh(config: MeshConfig, num_devices: int) -> AbstractMesh:
    """Build the same mesh without devices, to trace shapes and shardings for another machine."""
    sizes = config.sizes(num_devices)
    return AbstractMesh(tuple(sizes.values()), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _mesh(grid: Any) -> Mesh:
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _count(devices: Sequence[Any], attribute: str) -> int:
    return len({getattr(device, attribute, 0) for device in devices})


def _check_even(devices: Sequence[Any], attribute: str) -> None:
    counts = collections.Counter(getattr(device, attribute) for device in devices)
    if len(set(counts.values())) > 1:
        raise ConfigError(f"the slices have different numbers of devices ({attribute}: {dict(counts)})")
