"""Mixtures: regressions recover weights that are best by a law of their own, and plans that can be trained."""

import argparse
import pathlib

import numpy as np
import pytest

from configs.scaling.quickstart import get_config
from tlx.base.errors import ConfigError, DataError
from tlx.scaling import MixtureFit, plan_mixtures
from tlx.scaling.mixture_plans import draw_weights
from tlx.scaling.running import run as run_ladder

# Each source helps by its own power of its weight, and two of them help each other: no form of the regression.
LEVEL = np.array([1.2, 0.3, 0.15, 0.05])
POWER = np.array([0.25, 0.4, 0.3, 0.5])


def true_loss(weights):
    """Losses [n] of fractions [n, 4]."""
    return 2 + (LEVEL * (weights + 0.03) ** -POWER).sum(-1) / 4 - 0.2 * weights[:, 0] * weights[:, 2]


def sweep(count=40, noise=0.002, seed=0):
    """A table of runs, with columns w_0 to w_3."""
    weights = draw_weights(np.full(4, 0.25), count, seed)
    losses = true_loss(weights) * np.exp(noise * np.random.default_rng(seed).normal(size=count))
    return {f"w_{i}": weights[:, i] for i in range(4)} | {"loss": losses}


def test_the_best_weights_are_near_the_true_ones():
    grid = np.random.default_rng(9).dirichlet(np.ones(4), 200_000)
    least = true_loss(grid).min()
    even = true_loss(np.full((1, 4), 0.25))[0]
    fit = MixtureFit(sweep())
    assert fit.rank_correlation > 0.9
    best = fit.best(reference={f"w_{i}": 0.25 for i in range(4)})
    there = true_loss(np.array([list(best.weights.values())]))[0]
    # At least four fifths of what the weights can give, from 40 runs with noise.
    assert there - least < 0.2 * (even - least)
    assert best.probability > 0.95 and best.outside < 0.05
    capped = fit.best(most={"w_0": 0.2}).weights
    assert capped["w_0"] <= 0.2 + 1e-9 and sum(capped.values()) == pytest.approx(1)


def test_intervals_hold_runs_that_were_not_seen():
    runs = sweep(60)
    seen = {name: column[:40] for name, column in runs.items()}
    fit = MixtureFit(seen)
    inside = 0
    for i in range(40, 60):
        _, low, high = fit.predict({f"w_{j}": runs[f"w_{j}"][i] for j in range(4)})
        inside += low <= runs["loss"][i] <= high
    assert inside >= 17


@pytest.mark.parametrize("form", ["linear", "exponential"])
def test_forms_give_their_own_constants_back(form):
    weights = draw_weights(np.full(3, 1 / 3), 30, 1)
    t = np.array([0.8, 0.3, 1.1])
    losses = weights @ t if form == "linear" else 1.7 + np.exp(weights @ t - 1)
    fit = MixtureFit({"a": weights[:, 0], "b": weights[:, 1], "c": weights[:, 2], "loss": losses}, "abc")
    assert fit.form == form
    constants = list(fit.params.values())
    expected = t if form == "linear" else [1.7, *(t - 1)]
    np.testing.assert_allclose(constants, expected, rtol=1e-5, atol=1e-6)


def test_what_tells_no_mixture_is_said():
    runs = sweep(20)
    with pytest.raises(DataError, match="in 2 of 3 directions"):
        MixtureFit(runs | {"w_1": 1.0 - runs["w_0"], "w_2": runs["w_0"] * 0 + 0.2, "w_3": runs["w_3"]})
    with pytest.raises(DataError, match="7 are needed"):
        MixtureFit({name: column[:5] for name, column in runs.items()})
    with pytest.raises(DataError, match="in columns such as w_0 and w_1: it has 0; the table has loss"):
        MixtureFit({"loss": runs["loss"]})
    for column, values, message in (
        ("loss", runs["loss"] * (np.arange(20) != 6), r"positive and finite: row 7 \(loss 0\) has 0"),
        ("w_1", np.where(np.arange(20) == 2, -1.0, runs["w_1"]), r"row 3 \(loss .*\) has w_0 .*, w_1 -1"),
    ):
        with pytest.raises(DataError, match=message):
            MixtureFit(runs | {column: values})
    with pytest.raises(ConfigError, match="weights are of"):
        MixtureFit(runs).predict({"w_0": 1.0})


def mixed(folder):
    """The tiny ladder over two files, of numbers and of the standard library."""
    config = get_config("tiny")
    (folder / "numbers.txt").write_text("\n".join(f"{i * i % 9973} {i}" for i in range(40_000)))
    (folder / "code.txt").write_text(pathlib.Path(argparse.__file__).read_text() * 4)
    sources = []
    for name in ("numbers", "code"):
        files = (str(folder / f"{name}.txt"),)
        sources.append({"source": "text", "weight": 1.0, "text": {"files": files, "validation_files": files}})
    config.run.data.mixture = tuple(sources)
    return config


def plan(folder):
    """A plan of five runs over two files."""
    config = mixed(folder)
    return plan_mixtures(config.ladder, config.run, N=6e3, flops=1e9, count=5)


@pytest.mark.slow
def test_planned_runs_differ_in_the_weights_that_they_train_by(tmp_path):
    """They are all evaluated on the config's own mixture."""
    rows = plan(tmp_path)["runs"]
    assert (
        len({str(row["config"]["data"]["schedule"]) for row in rows})
        == len({row["run"] for row in rows})
        == 5
    )
    assert all(row["config"]["data"]["mixture"] == rows[0]["config"]["data"]["mixture"] for row in rows)
    assert all(row["w_0"] + row["w_1"] == pytest.approx(1, abs=1e-5) for row in rows)
    config = mixed(tmp_path)
    with pytest.raises(ConfigError, match="need 5 runs"):
        plan_mixtures(config.ladder, config.run, N=6e3, flops=1e9, count=4)
    with pytest.raises(ConfigError, match="has 0 sources"):
        plan_mixtures(config.ladder, get_config("tiny").run, N=6e3, flops=1e9, count=5)


@pytest.mark.long
def test_planned_runs_are_trained_and_fitted(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "1")
    folder = tmp_path / "ladder"
    run_ladder(plan(tmp_path), folder, "local", parallel=1, say=lambda text: None)
    fit = MixtureFit(str(folder), form="linear")
    assert fit.columns == ("w_0", "w_1") and 1 < fit.best().loss < 6
