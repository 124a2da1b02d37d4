"""Fits that are read back from JSON, and what would halve an interval."""

import json

import numpy as np
import pytest

from tlx import cli
from tlx.base.errors import DataError
from tlx.scaling import fit, fit_to_json, load_fit, predict, suggest
from tlx.scaling.drift import outlook
from tlx.scaling.simulation import draw, grid
from tlx.scaling.suggestions import halving


def sweep():
    runs = draw(grid(np.geomspace(1e18, 1e20, 3), 7), noise=0.002)
    return runs | {"run": np.array([f"r{i}" for i in range(21)], object)}


@pytest.mark.parametrize("approach", [2, 3])
def test_a_fit_is_read_back_as_it_was(approach, tmp_path):
    fitted = fit(sweep(), approach=approach, boot=60, starts=30).check()
    path = tmp_path / "fit.json"
    path.write_text(json.dumps(fit_to_json(fitted)))
    again = load_fit(path)
    assert again.settings == fitted.settings and again.to_dict() == fitted.to_dict()
    np.testing.assert_array_equal(again.draws, fitted.draws)
    assert predict(again, 1e21) == predict(fitted, 1e21)


def test_the_output_of_the_command_is_read_back(tmp_path, capsys):
    runs = sweep()
    lines = [",".join(map(str, row)) for row in zip(runs["N"], runs["D"], runs["loss"], strict=True)]
    (tmp_path / "runs.csv").write_text("\n".join(["N,D,loss", *lines]))
    assert cli.main(["scale", "fit", f"--runs={tmp_path}/runs.csv", "--boot=30", "--json"]) == 0
    (tmp_path / "fit.json").write_text(capsys.readouterr().out)
    again = load_fit(tmp_path / "fit.json")
    assert again.ok and again.draws.shape == (30, 5) and len(again.runs["loss"]) == 21


def test_what_is_no_fit_has_one_message(tmp_path):
    content = fit_to_json(fit(sweep(), boot=0, starts=20))
    with pytest.raises(DataError, match="no fit at"):
        load_fit(tmp_path / "none.json")
    (tmp_path / "cut.json").write_text('{"law": ')
    with pytest.raises(DataError, match="is not JSON"):
        load_fit(tmp_path / "cut.json")
    with pytest.raises(DataError, match="holds no fit"):
        load_fit({"law": "chinchilla"})
    with pytest.raises(DataError, match="format 2; this version reads format 1"):
        load_fit({"saved": content["saved"] | {"format": 2}})
    with pytest.raises(DataError, match="no whole fit: KeyError"):
        load_fit({"saved": {name: value for name, value in content["saved"].items() if name != "theta"}})
    with pytest.raises(DataError, match="their hash differs"):
        load_fit({"saved": content["saved"] | {"runs": content["saved"]["runs"] | {"loss": [3.0] * 21}}})


def test_so_many_suggested_runs_halve_the_interval():
    fitted = fit(sweep(), boot=0, starts=30)
    needed = halving(fitted, 1e21)
    runs = suggest(fitted, 1e21, count=needed.runs)[-needed.runs :]
    assert runs[-1].interval == needed.after <= needed.before / 2 < runs[-2].interval
    assert sum(run.flops for run in runs) == pytest.approx(needed.flops)
    # What is forecast has the run's noise too, which more runs leave as it is.
    row = fitted.optimal_row(1e21)
    now = outlook(fitted).forecast(row)
    assert needed.forecast_before == pytest.approx(float(now.high[0] - now.low[0]))
    assert needed.before < needed.forecast_before and needed.forecast_after < needed.forecast_before
