"""Targets are read as they are written, and what cannot be is refused with what could."""

import pytest

from tlx.base.chips import chip_of, chips
from tlx.base.errors import ConfigError
from tlx.plan.target import parse_target


@pytest.mark.parametrize(
    "text, name, chips_, devices, hosts, islands",
    [
        ("tpu:v5e:16x16", "v5e", 256, 256, 32, 1),
        ("tpu:v5p:8x16x16", "v5p", 2048, 2048, 512, 1),
        ("tpu:v6e:16x16 x 4 slices", "v6e", 1024, 1024, 128, 4),
        ("tpu:v4:4x4x8", "v4", 128, 128, 32, 1),
        ("tpu7x", "tpu7x", 4, 8, 1, 1),
        ("tpu:7x:4x4x4", "tpu7x", 64, 128, 16, 1),
        ("gpu:h100:8", "h100", 8, 8, 1, 1),
        ("gpu:h200:8x8", "h200", 64, 64, 8, 8),
        ("cpu:8", "cpu", 8, 8, 1, 1),
    ],
)
def test_targets_of_the_readme(text, name, chips_, devices, hosts, islands):
    target = parse_target(text)
    found = (target.chip.name, target.num_chips, target.num_devices, target.hosts, target.islands)
    assert found == (name, chips_, devices, hosts, islands)


@pytest.mark.parametrize(
    "text, says",
    [
        ("tpu:v5f:16x16", "did you mean 'v5"),
        ("tpu:h100:8", "is not one of: v4"),
        ("tpu:v5e:16x16x16", "2 sides"),
        ("tpu:v5p:16x16", "3 sides"),
        ("tpu:v5e:5x5", "16x16"),
        ("tpu:v5e:axb", "is no number"),
        ("gpu:h100:64", "gpu:h100:8x8"),
        ("gpu:h100:8 x 2 slices", "slices are of TPUs"),
        ("cpu:2x2", "cpu:8"),
        ("", "a target is"),
    ],
)
def test_a_wrong_target_is_one_message(text, says):
    with pytest.raises(ConfigError, match=says.replace("(", r"\(")):
        parse_target(text)


def test_every_row_of_the_table_is_whole():
    for row in chips().values():
        assert row.source and row.platform in ("tpu", "gpu", "cpu")
        assert 0.9 < row.memory_usable / row.memory < 1.01
        assert min(row.memory_bandwidth, row.bf16_flops, row.clock_hz, row.link_bandwidth) > 0
        assert row.link_bandwidth > row.network_bandwidth
        assert not row.torus == 0 or row.platform != "tpu"


def test_the_clock_of_a_tpu_explains_its_peak():
    """Peak = 2 x multiply-adds of all its matrix units x clock: a wrong clock would make wrong step times."""
    units = {"v4": 8 * 128**2, "v5e": 4 * 128**2, "v5p": 8 * 128**2, "v6e": 4 * 256**2, "tpu7x": 8 * 256**2}
    for name, multiply_adds in units.items():
        row = chips()[name]
        assert abs(2 * multiply_adds * row.clock_hz / row.bf16_flops - 1) < 0.005


def test_devices_are_found_by_their_kind():
    kinds = {"TPU v5 lite": "v5e", "TPU v5p": "v5p", "TPU v5": "v5p", "NVIDIA H100 80GB HBM3": "h100"}
    assert {kind: chip_of(kind).name for kind in kinds} == kinds
    assert chip_of("a new thing") is None
