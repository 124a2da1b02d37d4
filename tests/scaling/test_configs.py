"""The ladders of configs/scaling as they are planned."""

import runpy

import pytest

from tests.cli.tiny import ROOT
from tests.tiers import tiers
from tlx.plan import plan as plan_hardware
from tlx.run.checks import resolve
from tlx.scaling import fit, load_runs, predict_loss
from tlx.scaling.costs import step_flops
from tlx.scaling.planning import plan
from tlx.scaling.runs import rows_of

FOLDER = ROOT / "configs/scaling"


def planned(name, arg="", memory=False):
    config = runpy.run_path(str(FOLDER / f"{name}.py"))["get_config"](arg)
    return config.ladder, plan(config.ladder.to_dict(), config.run, memory)


@pytest.mark.parametrize("budget", tiers(["1e21", "1e22", "1e23", "1e24"], slow=["1e21", "1e24"]))
def test_pod_ladders_stay_within_their_budgets_and_are_made_of_trunks(budget):
    ladder, made = planned("pod", budget)
    assert 0.8 * float(budget) < made["total_flops"] <= float(budget) and 0 < made["hours"] < 24 * 14
    step = ladder.head_dim * ladder.width_multiple
    assert len(made["runs"]) == 26 and all(row["width"] % step == 0 for row in made["runs"])
    trunks = [row for row in made["runs"] if "trunk" not in row]
    assert len(trunks) <= 19 and {row["lr"] for row in made["runs"]} == {ladder.learning_rate}


@pytest.mark.slow
def test_runs_of_a_pod_fit_its_chips():
    ladder, made = planned("pod", "1e21", memory=True)
    for row in made["runs"]:
        assert row["memory_bytes"] / ladder.accelerators < 16e9


@pytest.mark.slow
def test_memory_is_what_tlx_plan_estimates():
    config = runpy.run_path(str(FOLDER / "quickstart.py"))["get_config"]("tiny")
    ladder = config.ladder.to_dict() | {"budgets": (4e9,)}
    for row in plan(ladder, config.run)["runs"]:
        estimate = plan_hardware(row["config"], "cpu:1", "analytic")
        assert row["memory_bytes"] == estimate.memory["total"]


@pytest.mark.slow
@pytest.mark.parametrize("arg", ["", "mlm", "span_corruption", "plm", "tiny", "mlm:tiny"])
def test_the_quickstarts_ladder_can_be_planned_for_every_objective(arg):
    _, made = planned("quickstart", arg)
    assert len(made["runs"]) == (9 if "tiny" in arg else 18)
    for budget in made["budgets"]:
        costs = [row["flops"] for row in made["runs"] if row["budget"] == budget]
        assert max(costs) <= budget and min(costs) > 0.98 * budget
    assert max(row["D"] for row in made["runs"]) < 8.1e6  # bytes that there are


def test_the_recorded_ladder_is_identified_and_forecasts_the_run_that_was_made():
    """configs/scaling/README.md: 4 times the compute, forecast 1.214 (1.147 to 1.283), measured 1.2455."""
    found = fit(load_runs(FOLDER / "quickstart.jsonl"), boot=200)
    assert found.status == "ok" and 0.4 < found.exponents[0] < 0.7
    guess = predict_loss(found, N=214_776, D=2_967_552)
    # The page's figures, to their last digit: the miss of 2.5%, and the interval that holds what came.
    assert [guess.loss, guess.low, guess.high] == pytest.approx([1.214, 1.147, 1.283], abs=6e-4)
    assert guess.low < 1.2455 < guess.high and guess.loss / 1.2455 - 1 == pytest.approx(-0.025, abs=6e-4)


def test_the_two_smallest_budgets_of_the_recorded_ladder_forecast_runs_of_seven_times_their_compute():
    """configs/scaling/README.md: two runs of 1.5e12 FLOPs of objectives.py:clm, measured after the ladder."""
    runs = load_runs(FOLDER / "quickstart.jsonl")
    found = fit(rows_of(runs, runs["flops"] < 2.5e11), boot=200)
    measured = {(101_712, 1_808_384): 1.3914, (30_120, 5_166_592): 1.4954}
    guesses = [predict_loss(found, N=n, D=d) for n, d in measured]
    errors = [guess.loss / loss - 1 for guess, loss in zip(guesses, measured.values(), strict=True)]
    assert errors == pytest.approx([0.0236, 0.0081], abs=1e-3)
    assert all(g.low < loss < g.high for g, loss in zip(guesses, measured.values(), strict=True))


@pytest.mark.slow
def test_the_recorded_masked_ladder_is_identified_and_its_larger_runs_are_missed():
    """configs/scaling/README.md: two runs of 4 times the compute ended 8% and 11% below the forecast."""
    runs = load_runs(FOLDER / "quickstart_mlm.jsonl")
    larger = rows_of(runs, runs["flops"] > 1e12)
    found = fit(rows_of(runs, runs["flops"] < 1e12), boot=1000).check()
    guesses = [predict_loss(found, N=n, D=d) for n, d in zip(larger["N"], larger["D"], strict=True)]
    errors = [guess.loss / loss - 1 for guess, loss in zip(guesses, larger["loss"], strict=True)]
    assert errors == pytest.approx([0.108, 0.079], abs=1e-3)
    assert all(loss < guess.low for guess, loss in zip(guesses, larger["loss"], strict=True))


OBJECTIVES = ("clm", "mlm", "span_corruption", "plm", "rtd", "bart")


@pytest.mark.slow
@pytest.mark.parametrize("objective", tiers(OBJECTIVES, quick=OBJECTIVES[:4]))
def test_objectives_at_equal_compute(objective):
    """Every ladder has the same budgets, every single run the same FLOPs, or the same number of rows."""
    _, made = planned("objectives", f"{objective}:tiny")
    assert made["budgets"] == [4e9, 8e9, 1.6e10] and len(made["runs"]) == 9
    for row in made["runs"]:
        assert 0.95 * row["budget"] < row["flops"] <= row["budget"]
    get_config = runpy.run_path(str(FOLDER / "objectives.py"))["get_config"]
    run, clm = get_config(f"{objective}:run"), get_config("clm:run")
    each = step_flops(run.to_dict(), run.train.batch_size)
    assert 0.99 * 2e11 < run.train.steps * each <= 2e11
    tokens = get_config(f"{objective}:run:tokens")
    assert tokens.train.steps == clm.train.steps and tokens.train.batch_size == clm.train.batch_size
    resolve(run), resolve(tokens)


@pytest.mark.slow
def test_a_traced_step_costs_what_the_formula_says():
    """And more where a generator is trained beside the model."""
    get_config = runpy.run_path(str(FOLDER / "objectives.py"))["get_config"]
    costs = {}
    for objective in ("clm", "mlm", "bart", "rtd"):
        run = get_config(f"{objective}:run").to_dict()
        costs[objective] = step_flops(run, 4)
        if objective != "rtd":
            ladder = get_config(objective).ladder.to_dict() | {"budgets": (1e11,), "seeds": 1}
            row = plan(ladder, run, memory=False)["runs"][-1]
            assert row["flops"] == row["steps"] * step_flops(row["config"], 4)
    assert costs["mlm"] < costs["rtd"] < 1.5 * costs["mlm"]
