"""Every law after its fit: optimum, prediction, comparison, backtest and report, from tables of its own columns."""

import numpy as np
import pytest

from tests.scaling.test_fits import EXAMPLES, sample
from tests.tiers import tiers
from tlx.base.errors import ConfigError
from tlx.scaling import backtest, compare, fit, influence, predict_loss, report
from tlx.scaling.evaluation import predict_log
from tlx.scaling.laws import LAWS, get_law

# A run four times the size of the tables' largest.
FAR = {"N": 1e11, "D": 2e12, "D_unique": 1e12, "N_enc": 4e9, "N_dec": 4e9, "D_F": 2e8, "flops": 1.2e24}


@pytest.mark.parametrize("name", tiers(LAWS, quick=("encdec_data", "transfer")))
def test_every_law_after_its_fit(name, tmp_path):
    law = get_law(name)
    table = sample(name)
    columns = {*law.columns, law.target} | ({"flops"} if {"N", "D"} <= set(law.columns) else set())
    noise = np.exp(0.003 * np.random.default_rng(1).normal(size=len(table[law.target])))
    runs = {column: table[column] for column in columns}
    runs[law.target] = runs[law.target] * noise
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
