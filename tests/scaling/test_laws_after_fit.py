"""Every law after its fit: optimum, prediction, comparison, backtest and report, from tables of its own columns."""

import numpy as np
import pytest

from tests.scaling.test_fits import EXAMPLES, sample
from tests.tiers import tiers
from tlx.base.errors import ConfigError
from tlx.scaling import backtest, compare, fit, influence, predict_loss, report
from tlx.scaling.drift import log_compute
from tlx.scaling.evaluation import predict_log
from tlx.scaling.laws import LAWS, get_law
from tlx.scaling.simulation import draw

# A run four times the size of the tables' largest.
FAR = {"N": 1e11, "D": 2e12, "D_unique": 1e12, "N_enc": 4e9, "N_dec": 4e9, "D_F": 2e8, "flops": 1.2e24}


# Backtests make a fold at every budget, and their fits are nearly all of the time that the test takes.
BUDGETS = 7


def sweep(name):
    """The law's table, moved along its last column to a few budgets, with noise."""
    law = get_law(name)
    runs = sample(name)
    compute = log_compute(law, runs)
    budgets = np.linspace(compute.min(), compute.max(), BUDGETS)
    nearest = budgets[np.argmin(np.abs(compute[:, None] - budgets), axis=1)]
    has_flops = "flops" in law.columns or {"N", "D"} <= set(law.columns)
    moved = {"D", "D_unique", "flops"} if has_flops else {law.columns[-1]}
    for column in moved & runs.keys():
        runs[column] = runs[column] * np.exp(nearest - compute)
    columns = {*law.columns, law.target} | ({"flops"} if {"N", "D"} <= set(law.columns) else set())
    return draw({column: runs[column] for column in columns}, EXAMPLES[name], 0.003, name, seed=1)


@pytest.mark.parametrize("name", tiers(LAWS, quick=("encdec_data", "transfer")))
def test_every_law_after_its_fit(name, tmp_path):
    law = get_law(name)
    runs = sweep(name)
    fitted = fit(runs, name, boot=0, starts=40).check()

    at = {column: FAR[column] for column in law.columns}
    truth = np.exp(predict_log(law, {c: np.array([v]) for c, v in at.items()}, law.theta(EXAMPLES[name]))[0])
    guess = predict_loss(fitted, **at)
    assert guess.octaves > 0 and guess.low < guess.loss < guess.high
    assert guess.loss == pytest.approx(truth, rel=0.03)
    if law.allocation is None:
        with pytest.raises(ConfigError, match="has no optimum"):
            fitted.optimal(1e22)
        with pytest.raises(ConfigError, match="name the run to compare"):
            compare(fitted, fitted)
    else:
        best = fitted.optimal(1e22)
        assert (
            best.loss < predict_loss(fitted, **(at | {"N": best.N * 9, "D": best.D / 9, "flops": 1e22})).loss
        )
        assert compare(fitted, fitted)["compute_factor"] == pytest.approx(1, rel=1e-6)
    result = compare(fitted, fitted, at=at)
    assert result["ratio"] == 1 and 0.4 < result["probability"] < 0.6

    tested = backtest(fitted)
    assert tested.folds >= 3 and tested.rate < 0.01
    # The folds share their runs, so that this is no binomial count; tests/scaling/test_coverage.py has one.
    assert np.average([o.coverage for o in tested.table], weights=[o.runs for o in tested.table]) > 0.7
    assert len(influence(fitted, 2)) == 2
    page = report(fitted, tmp_path).read_text()
    assert all(constant in page for constant in EXAMPLES[name])
