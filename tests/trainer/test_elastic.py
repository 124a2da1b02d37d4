"""A run that goes on with other numbers of devices: the same global batch, by more or fewer microbatches."""

import jax
import pytest

from tests.cli import tiny
from tests.forked import Forks
from tests.random_kills import Kind, Start
from tlx.base.errors import ConfigError
from tlx.base.files import read_json
from tlx.parallel import MeshConfig
from tlx.run import base_config
from tlx.run.checks import check_devices, fit_devices, resolve

WORDS = (
    *("--config.train.batch_size=24", "--config.train.rows_per_device=6", "--config.mesh.fsdp=2"),
    # The learning rate does not depend on where a start ends.
    "--config.optimizer.schedule.name=constant",
)


@pytest.mark.parametrize(("devices", "microbatches"), [(8, 1), (6, 2), (4, 2), (2, 4), (12, 1), (24, 1)])
def test_as_few_microbatches_as_the_rows_of_a_device_allow(devices, microbatches):
    config = base_config("clm")
    config.train.batch_size = 24
    config.train.rows_per_device = 3
    config.mesh.fsdp = 2
    fitted = fit_devices(resolve(config), devices)
    assert fitted.train.microbatches == microbatches
    assert 24 % (devices * microbatches) == 0 and 24 <= 3 * devices * microbatches


def test_what_the_config_says_is_the_least_and_other_runs_stay_as_they_are():
    config = base_config("clm")
    config.train.batch_size = 24
    assert fit_devices(resolve(config), 2).train.microbatches == 1
    config.train.microbatches = 4
    config.train.rows_per_device = 24
    assert fit_devices(resolve(config), 2).train.microbatches == 4


def test_a_batch_that_does_not_divide_is_the_usual_message():
    config = base_config("clm")
    config.train.batch_size = 24
    config.train.rows_per_device = 3
    fitted = fit_devices(resolve(config), 5)
    with pytest.raises(ConfigError, match="must be a multiple of 5"):
        check_devices(fitted, 5)
    config.train.rows_per_device = -1
    with pytest.raises(ConfigError, match="train.rows_per_device = -1"):
        resolve(config)
    assert MeshConfig(fsdp=2).sizes(jax.device_count())["data"] == jax.device_count() // 2


@pytest.mark.long
def test_a_slice_is_lost_and_comes_back(tmp_path):
    """Two hosts of two devices, then one, then two: the losses to 1e-6, and on one mesh bit for bit."""
    tiny.write_config(tmp_path)

    def train(forks, name, slices, steps):
        kind = Kind(slices, (*WORDS, f"--config.mesh.num_slices={slices}"), devices=2)
        Start(forks, kind, tmp_path, tmp_path / name, steps).finish()

    with Forks() as forks:
        train(forks, "whole", 2, 15)
        train(forks, "elastic", 2, 5)
        train(forks, "elastic", 1, 10)
        assert read_json(tmp_path / "elastic" / "run.json")["config"]["train"]["microbatches"] == 2
        train(forks, "elastic", 2, 15)
    whole, elastic = (tiny.metrics(tmp_path / name) for name in ("whole", "elastic"))
    assert [line["step"] for line in elastic] == [line["step"] for line in whole] == list(range(1, 16))
    assert elastic[:5] == whole[:5]
    for line, other in zip(elastic, whole, strict=True):
        assert line["loss"] == pytest.approx(other["loss"], rel=1e-6), line["step"]
