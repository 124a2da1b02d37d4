"""Before the first compile: hosts that differ, cannot write or see another directory are refused by name."""

import pathlib

import pytest

from tlx.base.errors import ConfigError, ReplicaMismatch, StorageError
from tlx.training.preflight import check_room, verdict

WORKDIR = pathlib.Path("/runs/a")


def facts(**odd):
    """Three hosts of which the second says something else."""
    same = {
        "host": "a",
        "config": "c" * 64,
        "versions": {"jax": "0.10.2", "tlx": "1"},
        "devices": "4 x TPU v5e",
        "directory": "",
        "time": 0.0,
    }
    return [same, same | {"host": "b"} | odd, same | {"host": "c"}]


def test_equal_hosts_pass():
    assert verdict(facts(), WORKDIR) is None


@pytest.mark.parametrize(
    "odd, error, message",
    [
        (
            {"versions": {"jax": "0.9", "tlx": "1"}},
            ConfigError,
            "jax: 0.10.2 on process 0 (a), 2 (c); 0.9 on process 1 (b)",
        ),
        ({"devices": "3 x TPU v5e"}, ConfigError, "devices: 4 x TPU v5e on process 0 (a), 2 (c); 3 x"),
        ({"config": "d" * 64}, ReplicaMismatch, "dddddddddddd on process 1 (b)"),
        ({"directory": "Permission denied"}, StorageError, "/runs/a:\n  process 1 (b): Permission denied"),
    ],
)
def test_the_odd_host_is_named(odd, error, message):
    found = verdict(facts(**odd), WORKDIR)
    assert type(found) is error and message in str(found)


def test_a_full_disk_is_refused_with_its_figures(tmp_path):
    check_room(tmp_path, 1000)
    with pytest.raises(StorageError, match="GB free; a checkpoint takes 1,000 TB"):
        check_room(tmp_path, 10**15)
