"""Tables of up to 1e6 rows: memory stays bounded, and what is linearised agrees with what is refitted.

`pytest -m long -s tests/scaling/test_large_tables.py`; configs/scaling/README.md has the figures.
"""

import json
import subprocess
import sys

import numpy as np
import pytest

from tlx.scaling import fit, identification, influence, sensitivity
from tlx.scaling.simulation import draw, grid

# Peak resident memory in GiB, time, constants and the most influential runs of a table of argv[1] rows.
_PROGRAM = """
import json, resource, sys, time
import numpy as np
from tlx.scaling import fit, influence, predict_loss
from tlx.scaling.simulation import draw, grid
rows = int(sys.argv[1])
runs = draw(grid(np.geomspace(1e18, 1e22, rows // 10), 10), noise=0.003)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
begin = time.monotonic()
fitted = fit(runs, boot=1000)
seconds = time.monotonic() - begin
most = influence(fitted, 3)
guess = predict_loss(fitted, N=1e11, D=2e12)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
total = time.monotonic() - begin
print(json.dumps({
    "status": fitted.status, "alpha": fitted.params["alpha"], "ci": fitted.ci["alpha"], "loss": guess.loss,
    "influence": most, "GiB": peak / 2**20, "table": before / 2**20, "fit": seconds, "seconds": total,
}))
"""


@pytest.fixture
def runs():
    """Five budgets of twenty sizes with outliers."""
    table = draw(grid(np.geomspace(1e18, 1e21, 5), 20), noise=0.003)
    table["loss"][[7, 40]] *= (1.05, 0.95)
    return table


def test_the_runs_with_the_largest_influence_are_found_to_first_order(runs, monkeypatch):
    fitted = fit(runs, boot=0, starts=20)
    exact = influence(fitted, 4)
    monkeypatch.setattr(sensitivity, "_MOST_REFITTED", 1000)
    linear = influence(fitted, 4)
    assert {name for name, _ in exact[:2]} == {name for name, _ in linear[:2]}
    assert dict(linear)[exact[0][0]] == pytest.approx(exact[0][1], rel=1e-3)


def test_normal_draws_are_as_wide_as_the_bootstrap(runs, monkeypatch):
    refitted = fit(runs, boot=400, starts=20).ci
    monkeypatch.setattr(identification, "MOST_CLUSTERS", 50)
    normal = fit(runs, boot=400, starts=20).ci
    for name in ("alpha", "beta", "E", "a"):
        assert np.ptp(normal[name]) == pytest.approx(np.ptp(refitted[name]), rel=0.35), name


def test_small_blocks_give_the_same_draws(runs, monkeypatch):
    whole = fit(runs, boot=60, starts=20)
    monkeypatch.setattr("tlx.scaling.solver._MOST_NUMBERS", 100 * 5 * 7)
    blocks = fit(runs, boot=60, starts=20)
    np.testing.assert_allclose(blocks.draws, whole.draws, rtol=1e-5)


@pytest.mark.long
def test_a_million_rows():
    run = subprocess.run(
        [sys.executable, "-c", _PROGRAM, "1000000"], capture_output=True, text=True, check=True
    )
    print("\n" + run.stdout)
    result = json.loads(run.stdout.splitlines()[-1])
    assert result["status"] == "ok" and result["GiB"] < 3
    assert result["ci"][0] < 0.3478 < result["ci"][1] and len(result["influence"]) == 3
