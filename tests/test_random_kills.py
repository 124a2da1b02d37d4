"""Runs with data workers, of two processes, and of two in a bucket, that are killed at random and resumed to the end.

pytest -m slow tests/test_random_kills.py       1 kill of a run with workers
pytest -m long -s tests/test_random_kills.py    100, as tests/random_kills.py makes them by itself
"""

import random
import time

import pytest

from tests import stores
from tests.cli import tiny
from tests.forked import Forks
from tests.random_kills import KINDS, Kills, Kind, Start
from tlx.base import place as places


@pytest.mark.parametrize(
    ("kind", "kills", "steps", "kills_per_run"),
    [
        pytest.param("workers", 1, 20, 1, marks=pytest.mark.slow, id="workers-1"),
        pytest.param("processes", 2, 20, 2, marks=pytest.mark.long, id="processes-2"),
        pytest.param("s3", 1, 20, 1, marks=pytest.mark.long, id="s3-1"),
        *(pytest.param(kind, 100, 200, 10, marks=pytest.mark.long, id=f"{kind}-100") for kind in KINDS),
    ],
)
def test_a_run_ends_as_if_it_had_not_been_killed(tmp_path, kind, kills, steps, kills_per_run):
    """Parameters, optimizer state and metrics are equal, and what the killed processes had started ends too."""
    seed = time.time_ns()
    print(f"seed {seed}")
    with Forks() as forks:
        killed = Kills(forks, KINDS[kind], tmp_path, steps, kills_per_run, random.Random(seed))
        killed.run(kills)
    assert len(killed.lines("kill")) == kills
    assert sum(line["kills"] for line in killed.lines("compared")) == kills


@pytest.mark.long
def test_a_run_in_a_bucket_goes_on_with_other_devices(tmp_path):
    """Four devices of two processes, killed; then two devices of one: the losses are those of a run in a folder."""
    two = KINDS["s3"]
    one = Kind(1, ("--config.mesh.data=2",), devices=2, store="s3")
    tiny.write_config(tmp_path)
    bucket = places.parse(f"{stores.root('s3')}/other-devices")
    with Forks() as forks:
        Start(forks, one, tmp_path, tmp_path / "folder", 20).finish()
        start = Start(forks, two, tmp_path, bucket, 20)
        while start.last_step < 8:
            start.wait_for_steps(1)
            time.sleep(0.1)
        for process in start.processes:
            process.kill()
        start.wait_for_all()
        Start(forks, one, tmp_path, bucket, 20).finish()
    expected, result = (tiny.metrics(run) for run in (tmp_path / "folder", bucket))
    assert [line["step"] for line in result] == [line["step"] for line in expected]
    for line, other in zip(result, expected, strict=True):
        assert line["loss"] == pytest.approx(other["loss"], rel=1e-5), line["step"]
