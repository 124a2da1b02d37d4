"""A mesh is what its config says, or is refused with what would be legal; slices lie on the slow axes."""

import dataclasses

import jax
import pytest
from jax.sharding import AxisType

from tlx.base.config import from_dict
from tlx.base.errors import ConfigError
from tlx.parallel import AXES, PRESETS, MeshConfig, abstract_mesh, make_mesh, rules
from tlx.parallel.presets import used_axes

pytestmark = pytest.mark.jax_versions


@dataclasses.dataclass(frozen=True)
class FakeDevice:
    """What mesh_utils asks of a device."""

    id: int
    slice_index: int
    process_index: int
    device_kind: str = "fake"
    platform: str = "cpu"
    client: None = None


def fake_devices(num_slices, per_slice, per_process=2):
    return [FakeDevice(i, i // per_slice, i // per_process) for i in range(num_slices * per_slice)]


@pytest.mark.parametrize(
    "config, shape",
    [
        (MeshConfig(), {"data": 8}),
        (MeshConfig(data=1, fsdp=-1), {"fsdp": 8}),
        (MeshConfig(fsdp=2, tensor=2), {"data": 2, "fsdp": 2, "tensor": 2}),
        (MeshConfig(data=2, context=2, expert=2), {"data": 2, "context": 2, "expert": 2}),
    ],
)
def test_axes_have_the_sizes_asked_for(config, shape):
    mesh = make_mesh(config)
    assert {axis: size for axis, size in mesh.shape.items() if size > 1} == shape
    assert mesh.axis_names == AXES and set(mesh.axis_types) == {AxisType.Auto}
    assert mesh.devices.size == jax.device_count() == 8
    assert abstract_mesh(config, 8).shape == mesh.shape


def test_fast_axes_are_neighbours():
    mesh = make_mesh(MeshConfig(fsdp=2, tensor=2))
    first = [device.id for device in mesh.devices[0, 0].flat]
    assert first == [device.id for device in jax.devices()[:2]]


@pytest.mark.parametrize(
    "config, parts",
    [
        (MeshConfig(data=3), ("mesh.data = 3", "8 devices", "one of 1, 2, 4, 8")),
        (MeshConfig(fsdp=2, tensor=3), ("mesh.tensor = 3", "one of 1, 2, 4")),
        (MeshConfig(data=2, fsdp=2), ("uses 4 of 8", "mesh.data = 4")),
        (MeshConfig(data=16), ("mesh.data = 16", "one of 1, 2, 4, 8")),
        (MeshConfig(fsdp=-1), ("mesh.data and mesh.fsdp are both -1",)),
        (MeshConfig(tensor=0), ("mesh.tensor = 0", "1 or more")),
        (MeshConfig(rules="fdsp"), ("did you mean 'fsdp'", "fsdp_tp_cp")),
        (MeshConfig(rules="dp", tensor=2), ("mesh.tensor = 2", "tp, fsdp_tp, fsdp_tp_cp")),
        (MeshConfig(data=1, tensor=-1, rules="fsdp"), ("mesh.tensor = 8", "tp, fsdp_tp, fsdp_tp_cp")),
        (MeshConfig(data=1, tensor=8, num_slices=2), ("mesh.num_slices = 2", "data=1 x fsdp=1")),
        (MeshConfig(num_slices=2), ("mesh.num_slices = 2", "form 1 slices")),
    ],
)
def test_what_does_not_fit_is_refused_with_the_legal_values(config, parts):
    with pytest.raises(ConfigError) as caught:
        make_mesh(config)
    for part in parts:
        assert part in str(caught.value)


def test_config_reads_from_plain_values():
    config = from_dict(MeshConfig, {"fsdp": 4, "rules": "fsdp"})
    assert config == MeshConfig(fsdp=4, rules="fsdp") and rules(config) == PRESETS["fsdp"]


def test_each_preset_uses_its_axes():
    used = {name: used_axes(table) for name, table in PRESETS.items()}
    assert used == {
        "dp": ("data",),
        "fsdp": ("data", "fsdp", "expert"),
        "tp": ("data", "expert", "tensor"),
        "fsdp_tp": ("data", "fsdp", "expert", "tensor"),
        "fsdp_tp_cp": AXES,
    }
    assert all(
        {rule.name for rule in table} == {rule.name for rule in PRESETS["dp"]} for table in PRESETS.values()
    )


@pytest.mark.parametrize(
    "config, slow",
    [
        (MeshConfig(data=2, fsdp=4, num_slices=2), "data"),
        (MeshConfig(data=1, fsdp=8, num_slices=2), "fsdp"),
        (MeshConfig(data=2, fsdp=2, tensor=2, num_slices=2), "data"),
    ],
)
def test_only_the_slow_axis_crosses_slices(config, slow):
    mesh = make_mesh(config, fake_devices(num_slices=2, per_slice=4))
    for axis in AXES:
        lines = mesh.devices.swapaxes(0, AXES.index(axis)).reshape(mesh.shape[axis], -1).T
        crossing = [len({device.slice_index for device in line}) for line in lines]
        assert set(crossing) == ({2} if axis == slow else {1})


def test_processes_stand_in_for_slices_where_devices_have_none():
    devices = [dataclasses.replace(device, slice_index=0) for device in fake_devices(1, 8, per_process=4)]
    mesh = make_mesh(MeshConfig(data=2, fsdp=4, num_slices=2), devices)
    assert [{device.process_index for device in row.flat} for row in mesh.devices] == [{0}, {1}]


def test_slices_that_the_config_ignores_are_refused_on_tpus():
    devices = [dataclasses.replace(device, platform="tpu") for device in fake_devices(2, 4)]
    with pytest.raises(ConfigError, match="form 2 slices: set it to 2"):
        make_mesh(MeshConfig(), devices)
