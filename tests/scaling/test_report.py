"""What a report says of its fit, and what a fit does not determine."""

import datetime

import numpy as np
import pytest

from tests.scaling.published import table
from tlx.base.errors import DataError
from tlx.cli import scale_tables
from tlx.scaling import fit, load_runs, predict, report, reporting
from tlx.scaling.provenance import data_hash
from tlx.scaling.simulation import draw, grid


@pytest.fixture(scope="module")
def fitted():
    return fit(draw(grid(np.geomspace(1e18, 1e20, 3), 7), noise=0.002), boot=60, starts=30).check()


def test_a_report_names_its_origin_and_its_quality(fitted, tmp_path, monkeypatch):
    # tests/scaling/test_laws_after_fit.py draws the pictures.
    monkeypatch.setattr(reporting, "_draw", lambda path, title, plot: path.write_bytes(b"picture"))
    page = report(fitted, tmp_path, command="tlx scale report --runs=x.csv").read_text()
    for text in (
        "tlx scale report --runs=x.csv",
        f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}",
        data_hash(fitted.runs),
        f"numpy {np.__version__}",
        f"{fitted.objective:.10g} (sum of huber:1e-3)",
        f"{fitted.agreeing} of 30 ended within",
        "exponent, counted by 6nd",
        "the intervals meet",
    ):
        assert text in page, text
    names = {path.name.split("-", 1)[1] for path in tmp_path.glob("*.png")}
    assert {"residuals-against-n.png", "residuals-against-d.png", "residuals-against-compute.png"} <= names


def test_the_hash_is_that_of_the_values(fitted):
    runs = fitted.runs
    assert data_hash(dict(reversed(runs.items()))) == data_hash(runs)
    moved = runs | {"loss": runs["loss"] * np.where(np.arange(21) == 3, 1 + 1e-15, 1)}
    named = runs | {"run": np.array([f"r{i}" for i in range(21)], object)}
    assert len({data_hash(runs), data_hash(moved), data_hash(named)}) == 3


def test_intervals_are_compared_with_intervals(fitted):
    low, high = fitted.ci["a"]
    other = {"status": "ok", "exponents": (high + 0.01, 0.5)}
    touching = other | {"ci": {"a": (high - 1e-3, high + 0.03)}}
    apart = other | {"ci": {"a": (high + 1e-3, high + 0.03)}}
    assert "agrees" in scale_tables.fit(fitted, {"approach_2": touching})
    assert "DISAGREES" in scale_tables.fit(fitted, {"approach_2": apart})
    shown = scale_tables.fit(fitted, {"approach_2": other | {"ci": None}})
    assert "agrees" not in shown and "DISAGREES" not in shown and low < high


def test_identification_is_that_of_the_forecast_asked_for():
    """Three budgets within a factor of 4 tell what 1.5 times as much compute gives, and not 1e6 times as much."""
    runs = draw(grid([1e19, 2e19, 4e19], 7), noise=0.01)
    near = fit(runs, boot=60, starts=30, times=1.5)
    assert near.ok and near.unsettled(6e19) == ""
    with pytest.warns(UserWarning, match="the forecast for 4e.25 FLOP is not determined"):
        assert not fit(runs, boot=60, starts=30, times=1e6).ok
    with pytest.raises(DataError, match="not identified: the forecast for 4e.25 FLOP"):
        predict(near, flops=4e25)


@pytest.mark.slow
def test_a_surface_that_its_own_minima_contradict_is_not_identified():
    """Porian et al. with a long warm-up: the surface has exponent .56, the minima .70, as published."""
    runs = load_runs(table("porian_rw_standard.csv"), "porian", hparams="base", warmup="long", decay="kaplan")
    with pytest.warns(UserWarning, match="iso-FLOP minima"):
        fitted = fit(runs, boot=60, starts=40)
    assert "by the loss surface" in fitted.status and fitted.params is None
    assert fit(runs, boot=60, starts=40, times=1).ok
