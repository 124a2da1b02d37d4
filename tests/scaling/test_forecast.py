"""What is made of a fit: backtests, forecasts, the next runs, comparisons; hyperparameters and tasks."""

import numpy as np
import pytest
from scipy.optimize import curve_fit

from tests.tiers import tiers
from tlx.base.errors import ConfigError, DataError
from tlx.scaling import (
    backtest,
    compare,
    critical_batch,
    downstream,
    fit,
    hparams,
    noise_scale,
    predict,
    predict_loss,
    suggest,
)
from tlx.scaling.backtesting import drift_warning
from tlx.scaling.drift import IDENTIFIED, Outlook
from tlx.scaling.forecast import accelerator_hours, chinchilla_answer, kaplan_answer
from tlx.scaling.simulation import BESIROGLU, draw, grid

BUDGETS = np.geomspace(1e18, 1e21, 6)


@pytest.fixture(scope="module")
def found():
    return fit(draw(grid(BUDGETS, 7), noise=0.003, seed=1), boot=200, starts=30)


def bent(runs, seed=0, noise=0.001):
    """Beyond 3e9 tokens the data term falls with half the exponent; returns the table and exact losses."""
    d, p = runs["D"], BESIROGLU
    data = p["B"] * d ** -p["beta"]
    slow = p["B"] * 3e9 ** -p["beta"] * (d / 3e9) ** (-p["beta"] / 2)
    loss = p["E"] + p["A"] * runs["N"] ** -p["alpha"] + np.where(d > 3e9, slow, data)
    return runs | {"loss": loss * np.exp(noise * np.random.default_rng(seed).normal(size=len(d)))}, loss


def test_a_law_that_holds_backtests_well(found):
    result = backtest(found)
    assert result.folds == 4 and result.warning == "" and result.rate < 0.002
    assert max(octave.error for octave in result.table) < 0.01
    assert np.average([o.coverage for o in result.table], weights=[o.runs for o in result.table]) > 0.85


def test_a_planted_change_of_slope_is_seen_and_corrected():
    """The law alone misses the larger run; the forecast's drift moves it towards the measured side and covers it."""
    alone = []
    moved = []
    covered = warned = 0
    far = grid([1e23], 1, 1)
    for seed in range(1000, 1004):
        runs, _ = bent(grid(BUDGETS, 7), seed)
        surface = fit(runs, boot=0, starts=30, seed=seed)
        _, (truth,) = bent(far)
        guess = predict_loss(surface, N=far["N"][0], D=far["D"][0])
        moved.append(abs(np.log(truth / guess.loss)))
        alone.append(abs(np.log(truth / guess.loss) + guess.drift))
        covered += guess.low <= truth <= guess.high
        warned += "too high" in drift_warning(surface)
        assert guess.drift_probability > IDENTIFIED and guess.note == ""
    assert np.mean(moved) < 0.6 * np.mean(alone)
    assert covered == warned == 4


@pytest.mark.long
def test_of_many_bent_ladders_nearly_all_are_seen_and_covered_and_of_straight_ones_hardly_any_warned_of():
    covered = warned = falsely = 0
    far = grid([1e23], 1, 1)
    _, (truth,) = bent(far)
    for seed in range(1000, 1024):
        surface = fit(bent(grid(BUDGETS, 7), seed)[0], boot=0, starts=30, seed=seed)
        guess = predict_loss(surface, N=far["N"][0], D=far["D"][0])
        covered += guess.low <= truth <= guess.high
        warned += drift_warning(surface) != ""
        straight = fit(draw(grid(BUDGETS, 7), noise=0.001, seed=seed), boot=0, starts=30, seed=seed)
        falsely += drift_warning(straight) != ""
    assert covered >= 22 and warned >= 22 and falsely <= 2


def test_intervals_scale_with_their_probability_and_say_where_no_drift_is_identified(found):
    widths = [
        np.log(g.high / g.low) for g in (predict_loss(found, N=8e9, D=4e11, interval=p) for p in (0.5, 0.95))
    ]
    assert widths[1] > 2.5 * widths[0] > 0
    answer = predict(found, 1e23, interval=0.5)
    assert np.ptp(answer["interval"]) < np.ptp(predict(found, 1e23)["interval"]) / 2
    assert "no drift is identified" in answer["note"] and answer["warning"] == ""
    assert predict(found, 1e20)["note"] == ""  # inside the table
    with pytest.raises(ConfigError, match="between 0 and 1"):
        predict_loss(found, N=8e9, D=4e11, interval=95)


def test_a_forecast_is_that_of_a_bayesian_regression():
    """Without drift and robustness the interval is the textbook's, from scipy's own curve fit."""
    runs = draw(grid(BUDGETS, 7), noise=0.003, seed=5)

    def surface(columns, a, b, e, alpha, beta):
        n, d = columns
        return np.logaddexp(np.logaddexp(a - alpha * np.log(n), b - beta * np.log(d)), e)

    columns = np.stack([runs["N"], runs["D"]])
    q = BESIROGLU
    start = [np.log(q["A"]), np.log(q["B"]), np.log(q["E"]), q["alpha"], q["beta"]]
    best, covariance = curve_fit(surface, columns, np.log(runs["loss"]), start)
    far = grid([1e23], 1, 1)
    point = np.stack([far["N"], far["D"]])
    slope = [(surface(point, *(best + h)) - surface(point, *(best - h)))[0] / 2e-5 for h in np.eye(5) * 1e-5]
    deviation = np.sqrt(np.array(slope) @ covariance @ slope)
    forecast = Outlook(fit(runs, loss="l2", boot=0)).forecast(far, noise=False)
    assert forecast.center[0] == pytest.approx(surface(point, *best)[0], abs=deviation / 2)
    assert (forecast.high - forecast.low)[0] == pytest.approx(2 * 1.96 * deviation, rel=0.35)


def test_predict_names_the_run_to_make(found):
    answer = predict(found, 1e23)
    best = found.optimal(1e23)
    assert answer["N"] == pytest.approx(best.N, rel=0.002)
    assert answer["interval"][0] < answer["loss"] < answer["interval"][1]
    low, high = answer["flat"]["0.5%"]
    inner = answer["flat"]["0.1%"]
    assert low < inner[0] < answer["N"] < inner[1] < high
    assert accelerator_hours(found, answer["N"], answer["D"], 4e14) == pytest.approx(
        1e23 / 4e14 / 3600, rel=1e-6
    )
    assert answer["octaves_beyond"] == pytest.approx(np.log2(100)) and abs(answer["drift"]) < 0.01
    fixed = predict(found, N=1e9, D=1e11)
    assert fixed["loss"] == pytest.approx(predict_loss(found, N=1e9, D=1e11).loss)
    assert "N_interval" in answer and "N_interval" not in fixed


def test_little_data_and_much_use_move_the_optimum(found):
    free, scarce = predict(found, 1e23), predict(found, 1e23, D_unique=5e10)
    assert scarce["loss"] > free["loss"] and scarce["epochs"] > 4
    used = predict(found, 1e23, inference_tokens=2e12)
    assert used["N"] < free["N"] / 1.3
    with pytest.raises(ConfigError, match="do not pay"):
        predict(found, 1e18, inference_tokens=1e20)
    with pytest.raises(ConfigError, match="must be 0 or more"):
        predict(found, 1e18, inference_tokens=-1e9)
    with pytest.raises(ConfigError, match="needs flops, or N and D"):
        predict(found)


def test_the_published_answers_beside_it():
    one, two = kaplan_answer(1e23), kaplan_answer(1e23 * 8 ** (1 / 0.73))
    assert two["N"] / one["N"] == pytest.approx(8)
    assert two["D"] / one["D"] < 5  # 8 times the model wants not even 5 times the data
    gopher = chinchilla_answer(5.76e23)
    assert gopher["N"] == pytest.approx(40e9, rel=0.05) and gopher["D"] / gopher["N"] == pytest.approx(
        59, rel=0.05
    )


def test_suggested_runs_narrow_the_forecast(found):
    first, *rest = suggest(found, 1e23, 3)
    assert first.interval > rest[0].interval > rest[1].interval
    assert all(run.flops <= 4e21 * 1.001 for run in (first, *rest))
    open_side = draw(grid(BUDGETS, 7, 3, center=10), noise=0.002)
    repairs = [s for s in suggest(fit(open_side, boot=100, starts=30), 1e23, 1) if "brackets" in s.why]
    assert len(repairs) == 6 and all("smallest" in s.why for s in repairs)
    assert repairs[0].N == pytest.approx(open_side["N"][:7].min() / 2)


def test_compare_says_how_sure_it_is():
    better = BESIROGLU | {"A": 400.0}
    one = draw(grid(BUDGETS, 7), better, 0.003, seed=2)
    two = draw(grid(BUDGETS, 7), BESIROGLU, 0.003, seed=3)
    result = compare(one, two, boot=100, starts=30)
    assert result["flops"] == pytest.approx(1e22) and result["probability"] > 0.9
    assert result["compute_factor"] > 1.2 and result["ratio"] < 1
    back = compare(two, one, boot=100, starts=30)
    assert back["probability"] < 0.1
    same = compare(two, draw(grid(BUDGETS, 7), BESIROGLU, 0.003, seed=9), boot=100, starts=30)
    assert 0.02 < same["probability"] < 0.98


def test_hparams_finds_a_planted_law():
    rng, rows = np.random.default_rng(0), []
    for n in np.geomspace(1e6, 1e8, 4):
        for d in np.geomspace(1e8, 1e10, 3):
            lr, batch = 1.79 * n**-0.5 * d**0.1, 0.58 * d**0.571
            for x in np.linspace(-1.5, 1.5, 5):
                for z in np.linspace(-1.5, 1.5, 5):
                    bowl = 0.01 * x * x + 0.006 * z * z - 0.004 * x * z
                    loss = 3 * np.exp(bowl + rng.normal(0, 3e-4))
                    rows.append(
                        {"N": n, "D": d, "lr": lr * np.exp(x), "batch": batch * np.exp(z), "loss": loss}
                    )
    found = hparams(rows)
    assert found["status"] == "ok" and len(found["cells"]) == 12
    assert found["lr"]["N"] == pytest.approx(-0.5, abs=0.02) and found["lr"]["D"] == pytest.approx(
        0.1, abs=0.02
    )
    assert found["batch"]["D"] == pytest.approx(0.571, abs=0.02)
    low, high = found["lr"]["ci"]["N"]
    assert low < found["lr"]["N"] < high
    edge = [row for row in rows if row["lr"] < 1.79 * row["N"] ** -0.5 * row["D"] ** 0.1]
    assert hparams(edge)["status"].startswith("not identified")


def test_critical_batch_two_ways():
    batch = np.geomspace(1e4, 1e7, 7)
    found = critical_batch(batch, 2e3 * (1 + 3e5 / batch))
    assert found["critical_batch"] == pytest.approx(3e5) and found["least_steps"] == pytest.approx(2e3)
    with pytest.raises(DataError, match="level off"):
        critical_batch(batch, 1e9 / batch**1.5)
    rng = np.random.default_rng(0)
    gradient, noise = rng.normal(size=50), 4.0
    squares = [
        np.mean([((gradient + rng.normal(0, noise, 50) / np.sqrt(b)) ** 2).sum() for _ in range(4000)])
        for b in (8, 64)
    ]
    assert noise_scale(8, 64, *squares) == pytest.approx(noise**2 * 50 / (gradient @ gradient), rel=0.05)


def test_downstream_by_sigmoid_and_in_one_step():
    runs = draw(grid(np.geomspace(1e18, 1e22, 6), 5), noise=0.001)
    runs["acc"] = 0.25 + 0.5 / (1 + np.exp(4 * (runs["loss"] - 2.3)))
    runs["err"] = 0.3 + 3 * runs["N"] ** -0.1 + 20 * runs["D"] ** -0.2
    found = downstream(runs, "acc", boot=0)
    assert max(found["metric_error"]) < 0.01 and max(found["loss_error"]) < 0.01
    assert found["params"]["L0"] == pytest.approx(2.3, abs=0.05)
    assert max(downstream(runs, "err", steps=1)["metric_error"]) < 0.01
    with pytest.raises(DataError, match="needs the column 'accuracy'"):
        downstream(runs, "accuracy")
    with pytest.raises(ConfigError, match="items = -5 must be 1 or more"):
        downstream(runs, "acc", items=-5)
    with pytest.raises(ConfigError, match="chance = 2 must be a fraction"):
        downstream(runs, "acc", chance=2)
    one = {column: values[:1] for column, values in runs.items()}
    with pytest.raises(DataError, match="none is left for the fit"):
        downstream(one, "acc")


@pytest.mark.slow
def test_a_sigmoid_anchored_at_chance_extrapolates_from_small_models():
    """Accuracies of small models are near chance: without the anchor they do not tell the curve's top."""
    rng = np.random.default_rng(0)
    runs = draw(grid(np.geomspace(1e18, 3e22, 7), 5), noise=0.001)
    runs["acc"] = 0.25 + 0.75 / (1 + np.exp(5 * (runs["loss"] - 2.15))) + rng.normal(0, 0.008, 35)
    held = runs["flops"] > 1e21
    answer = downstream(runs, "acc", chance=0.25, best=1.0, items=3000, boot=60, held_out=held)
    assert answer["params"]["floor"] == 0.25 and answer["params"]["L0"] == pytest.approx(2.15, abs=0.03)
    free = downstream(runs, "acc", boot=0, held_out=held)
    assert np.mean(answer["metric_error"]) < 0.7 * np.mean(free["metric_error"])
    assert answer["covered"] >= 0.8 and all(low < high for low, high in answer["interval"])
    both = downstream(runs, "acc", chance=0.25, best=1.0, steps=0, boot=0, held_out=held)
    assert both["chosen"] == 2 and both["metric_error"] == both["both_errors"][2]
    with pytest.raises(ConfigError, match="must be below best"):
        downstream(runs, "acc", chance=0.5, best=0.4)


@pytest.mark.slow
def test_a_law_of_the_metric_itself_has_intervals_that_hold():
    """Ten sweeps, twelve held-out models each, up to 20 times the compute of the fit; configs/scaling/README.md."""
    covered, widths, errors = [], [], []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        runs = draw(grid(np.geomspace(1e18, 2e22, 6), 6), noise=0.002, seed=seed)
        exact = 0.1 + 3 * runs["N"] ** -0.1 + 20 * runs["D"] ** -0.2
        runs["err"] = exact * np.exp(rng.normal(0, 0.005, len(exact)))
        answer = downstream(runs, "err", steps=1, held_out=runs["flops"] > 2e21, boot=60)
        low, high = np.transpose(answer["interval"])
        covered.append(answer["covered"])
        widths.append(np.median(np.log(high / low)))
        errors += list(np.log(np.array(answer["predicted"]) / answer["measured"]))
    spread = float(np.ptp(np.quantile(errors, [0.025, 0.975])))
    print(f"inside {np.mean(covered):.1%}, width {np.median(widths):.2%}, errors {spread:.2%}")
    assert 0.88 <= np.mean(covered) <= 1 and np.median(widths) < 1.5 * spread


@pytest.mark.slow
def test_checkpoints_show_the_curve_and_are_held_out_with_their_runs():
    """Five checkpoints a run: the loss law reads the last of each, the curve all, and no run is on both sides."""
    base = grid(np.geomspace(1e18, 1e22, 5), 5)
    runs = {name: np.repeat(column, 5) for name, column in base.items()}
    runs["run"] = np.repeat(np.arange(25.0), 5)
    runs["D"] = runs["D"] * np.tile([0.2, 0.4, 0.6, 0.8, 1.0], 25)
    runs["flops"] = 6 * runs["N"] * runs["D"]
    runs = draw(runs, noise=0.001)
    runs["acc"] = 0.25 + 0.75 / (1 + np.exp(5 * (runs["loss"] - 2.3)))
    answer = downstream(runs, "acc", chance=0.25, best=1.0, boot=0)
    assert len(answer["measured"]) == 25 and max(answer["metric_error"]) < 0.02


@pytest.mark.parametrize("noise", tiers([0.003, 0.01], slow=[]))
def test_intervals_of_100_sweeps_cover_the_exponent(noise):
    truth = BESIROGLU["beta"] / (BESIROGLU["alpha"] + BESIROGLU["beta"])
    runs, hits = grid(BUDGETS, 7), 0
    for seed in range(100):
        low, high = fit(draw(runs, noise=noise, seed=seed), boot=200, starts=24).check().ci["a"]
        hits += low <= truth <= high
    assert 90 <= hits <= 98
