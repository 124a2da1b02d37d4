"""Rates from ladders that sweep them: window by noise, confounded designs, and fitted laws that plan and predict."""

import json

import numpy as np
import pytest
from scipy import stats

from configs.scaling.quickstart import get_config
from tlx.base.errors import ConfigError, DataError
from tlx.scaling import Ledger, fit, hparams, hyperparameters, plan, predict
from tlx.scaling.critical_batches import critical_batches
from tlx.scaling.rate_laws import load_rate_law
from tlx.scaling.simulation import draw, grid


def bowl(n, d, lr, batch, skew=0.0):
    """Ln loss above its best: the optimum is lr 40 N^-.5 D^.1 and batch .58 D^.5."""
    x = np.log(lr / (40 * n**-0.5 * d**0.1))
    z = np.log(batch / (0.58 * d**0.5))
    return 0.012 * x * x + skew * x**3 + 0.02 * x**4 * (skew != 0) + 0.006 * z * z - 0.003 * x * z


def sweep(skew, noise, seed=0, cells=((1e6, 1e8), (1e6, 1e9), (1e8, 1e9), (1e8, 1e10))):
    """Rows of a sweep of learning rates and batches in each cell, which is not centred on the optimum."""
    rng = np.random.default_rng(seed)
    rows = []
    for n, d in cells:
        for lr in 40 * n**-0.5 * d**0.1 * np.exp(np.linspace(-1.8, 2.2, 17)):
            for batch in 0.58 * d**0.5 * np.exp(np.linspace(-1.5, 2.0, 9)):
                level = (n / 1e8) ** -0.03 * (d / 1e9) ** -0.03
                loss = 3 * level * np.exp(bowl(n, d, lr, batch, skew) + rng.normal(0, noise))
                rows.append({"N": n, "D": d, "lr": lr, "batch_tokens": batch, "loss": loss})
    return rows


def error(found):
    return abs(
        np.log(
            found["lr"]["coefficient"]
            * 1e7 ** found["lr"]["N"]
            * 1e9 ** found["lr"]["D"]
            / (40 * 1e7**-0.5 * 1e9**0.1)
        )
    )


def test_the_window_is_as_wide_as_the_noise_allows(monkeypatch):
    """A skewed bowl with little noise needs a narrow window, a quadratic one with noise a wide one."""
    skewed = hparams(sweep(0.005, 1e-4))
    assert skewed["status"] == "ok" and skewed["window"] <= 0.02
    assert error(skewed) < 0.03
    noisy = hparams(sweep(0.0, 3e-3))
    assert noisy["window"] == 0.15 and noisy["noise"] == pytest.approx(3e-3, rel=0.3)
    monkeypatch.setattr(hyperparameters, "_WINDOWS", (0.15,))
    assert error(hparams(sweep(0.005, 1e-4))) > 1.5 * error(skewed)


def test_a_confounded_design_is_refused_with_what_to_add():
    cells = [(n, 20 * n) for n in (1e6, 1e7, 1e8)]
    found = hparams(sweep(0.0, 3e-4, cells=cells))
    assert found["status"].startswith("not identified: D goes as N^1.00 in all 3 cells")
    assert (
        "add the same sweep at N 1e+06, D 8e+07 and at N 1e+08, D 5e+08" in found["status"]
        and "lr" not in found
    )
    added = [*cells, (1e6, 8e7), (1e8, 5e8)]
    assert hparams(sweep(0.0, 3e-4, cells=added))["status"] == "ok"


def test_intervals_of_powers_are_those_of_least_squares():
    found = hparams(sweep(0.0, 3e-3, cells=((1e6, 1e9), (1e7, 1e9), (1e8, 1e9), (1e9, 1e9))))
    n, lr = np.log([[cell["N"], cell["lr"]] for cell in found["cells"]]).T
    line = stats.linregress(n, lr)
    half = stats.t.ppf(0.975, 2) * line.stderr
    assert found["lr"]["ci"]["N"] == pytest.approx((line.slope - half, line.slope + half), rel=1e-6)


def test_powers_that_few_cells_do_not_determine_are_no_law():
    """Four cells of a real sweep (configs/scaling/README.md) for three constants."""
    cells = ((16_144, 1_038_848), (31_128, 1_312_768), (50_848, 840_704), (75_304, 586_752))
    found = hparams(sweep(0.0, 3e-3, cells=cells))
    assert found["status"].startswith("not identified: batch goes as D to the power of ")
    assert "add cells that differ more in N and D, or seeds" in found["status"]
    with pytest.raises(DataError, match="not identified: batch goes as D"):
        load_rate_law(found)
    for name, power in (("N", -0.5), ("D", 0.1)):
        low, high = found["lr"]["ci"][name]
        assert low < power < high < low + 0.1


def test_the_critical_batch_of_a_ledger():
    """Runs whose losses follow steps = S (1 + B_crit / B), S of a power law, at two learning rates."""
    rows = []
    for batch in np.geomspace(2e3, 2e6, 6):
        for d in np.geomspace(1e7, 1e10, 8):
            steps = d / batch / (1 + 5e4 / batch)
            for penalty in (1.0, 1.02):
                rows.append({"N": 1e6, "D": d, "batch": batch, "loss": penalty * (2 + 30 * steps**-0.4)})
    table = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    (found,) = critical_batches(table)
    assert found["critical_batch"] == pytest.approx(5e4, rel=0.1)
    assert critical_batches({name: column for name, column in table.items() if name != "batch"}) == []


@pytest.fixture
def ladder():
    config = get_config("tiny")
    config.ladder.lr_factors = (0.25, 0.5, 1.0, 2.0, 4.0)
    config.ladder.budgets = (2e9, 8e9)
    return config


@pytest.mark.slow
def test_a_swept_ladder_is_fitted_planned_and_predicted_by(ladder, tmp_path):
    """From the plan of a sweep to a plan and a prediction by the law that its ledger shows."""
    planned = plan(ladder.ladder, ladder.run, memory=False)
    assert len(planned["runs"]) == 2 * 3 * 5
    book = Ledger(tmp_path)
    book.start(planned)
    for row in book.rows():
        best = 30 * row["N"] ** -0.7 * row["D"] ** 0.1
        loss = 2 + 20 * row["N"] ** -0.3 + 0.02 * np.log(row["lr"] / best) ** 2
        book.record(row, "done", {"loss": float(loss), "D_unique": row["D"]})
    found = hparams(str(tmp_path))
    assert found["status"] == "ok", found["status"]
    assert found["lr"]["N"] == pytest.approx(-0.7, abs=0.02)
    assert set(found["batch"]) == {"coefficient"}  # never swept: one value and no powers
    law_file = tmp_path / "hparams.json"
    law_file.write_text(json.dumps(found))

    ladder.ladder.lr_factors = ()
    ladder.ladder.rate_law = str(law_file)
    for row in plan(ladder.ladder, ladder.run, memory=False)["runs"]:
        assert row["lr"] == pytest.approx(30 * row["N"] ** -0.7 * row["D"] ** 0.1, rel=0.05)
    surface = fit(draw(grid(np.geomspace(1e18, 1e21, 5), 7), noise=0.001), boot=0, starts=20)
    answer = predict(surface, N=1e6, D=1e8, rate_law=str(law_file))
    assert answer["learning_rate"] == pytest.approx(30 * 1e6**-0.7 * 1e8**0.1, rel=0.1)


def test_sweeps_and_laws_that_cannot_be(ladder, tmp_path):
    ladder.ladder.lr_factors = (1.0, 1.0)
    with pytest.raises(ConfigError, match="different numbers above 0"):
        plan(ladder.ladder, ladder.run, memory=False)
    with pytest.raises(ConfigError, match="is neither of steplaw, deepseek nor a file"):
        load_rate_law("step-law")
    refused = tmp_path / "refused.json"
    refused.write_text(json.dumps({"status": "not identified: 1 cells", "cells": []}))
    with pytest.raises(DataError, match="not identified: 1 cells"):
        load_rate_law(refused)
    ladder.ladder.lr_factors = ()
    ladder.ladder.batch_factors = (1.0, 64.0)
    with pytest.raises(ConfigError, match="64 times the batch leaves"):
        plan(ladder.ladder, ladder.run, memory=False)
