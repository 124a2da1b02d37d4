"""Every law after its fit: optimum, prediction, comparison, backtest and report, from tables of its own columns."""

import numpy as np
import pytest

from tests.scaling.test_fits import EXAMPLES, sample
from tests.tiers import tiers
from tlx.base.errors import ConfigError
from tlx.scaling import backtest, compare, fit, influence, optimal_run, predict_loss, report
from tlx.scaling.drift import log_compute
from tlx.scaling.evaluation import predict_log
from tlx.scaling.laws import LAWS, get_law
from tlx.scaling.simulation import draw

# A run four times the size of the tables' largest.
FAR = {
    "N": 1e11,
    "N_active": 1e10,
    "D": 2e12,
    "D_unique": 1e12,
    "N_enc": 4e9,
    "N_dec": 4e9,
    "D_F": 2e8,
    "G": 8.0,
    "batch": 4e6,
    "P_w": 6.0,
    "P_a": 8.0,
    "P_kv": 8.0,
    "P_post": 4.0,
    "flops": 1.2e24,
}


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


def test_the_best_run_with_given_experts_bits_or_batch():
    """At fixed other columns these laws are Chinchilla's with another A or B, whose optimum is in closed form."""
    dense = fit(sample("chinchilla"), boot=0, starts=40)
    assert optimal_run(dense, 1e22).N == pytest.approx(dense.optimal(1e22).N, rel=2e-3)
    granular = fit(sample("moe_granularity"), "moe_granularity", boot=0, starts=40)
    q = EXAMPLES["moe_granularity"]
    best = []
    for g in (1.0, 16.0):
        level = q["A"] + q["F"] * g ** -q["gamma"]
        ratio = q["alpha"] * level / (q["beta"] * q["B"])
        exact = (ratio * (1e22 / 6) ** q["beta"]) ** (1 / (q["alpha"] + q["beta"]))
        best.append(optimal_run(granular, 1e22, G=g))
        assert best[-1].N == pytest.approx(exact, rel=3e-3)
    assert best[1].loss < best[0].loss
    precise = fit(sample("precision_weights"), "precision_weights", boot=0, starts=40)
    four, sixteen = (optimal_run(precise, 1e22, P_w=bits) for bits in (4.0, 16.0))
    assert four.N > sixteen.N and four.loss > sixteen.loss  # fewer bits want more parameters
    q = EXAMPLES["batch"]
    level = q["B"] * (1 + 8e6 / q["B_crit"]) ** q["beta"]
    exact = (q["alpha"] * q["A"] / (q["beta"] * level) * (1e22 / 6) ** q["beta"]) ** (
        1 / (q["alpha"] + q["beta"])
    )
    batched = optimal_run(fit(sample("batch"), "batch", boot=0, starts=40), 1e22, batch=8e6)
    assert batched.N == pytest.approx(exact, rel=3e-3)
    sparse = fit(sample("moe"), "moe", boot=0, starts=40)
    eighth = optimal_run(sparse, 1e22, active_fraction=1 / 8)
    assert 6 * eighth.N / 8 * eighth.D == pytest.approx(1e22)
    with pytest.raises(ConfigError, match="needs the columns"):
        optimal_run(granular, 1e22)
    with pytest.raises(ConfigError, match="no function of a budget"):
        optimal_run(fit(sample("transfer"), "transfer", boot=0, starts=40), 1e22)
