"""Runs with data workers, of two processes, and of two in a bucket, that are killed at random and resumed to the end.

pytest -m slow tests/test_random_kills.py       5 kills a kind
pytest -m long -s tests/test_random_kills.py    100, as tests/random_kills.py makes them by itself
"""

import random
import time

import pytest

from tests.forked import Forks
from tests.random_kills import KINDS, Kills


@pytest.mark.parametrize(
    ("kind", "kills", "steps", "kills_per_run"),
    [
        pytest.param("workers", 5, 40, 5, marks=pytest.mark.slow, id="workers-5"),
        # Not in CI: it came to no end on a machine with too much to do, and nobody has seen why.
        pytest.param("processes", 5, 40, 5, marks=pytest.mark.long, id="processes-5"),
        pytest.param("s3", 1, 20, 1, marks=pytest.mark.slow, id="s3-1"),
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
