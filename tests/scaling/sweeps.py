"""Simulated sweeps of known truth, and the hold-outs of public tables: what forecasts are counted on."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from tests.scaling.published import table
from tlx.scaling import load_runs
from tlx.scaling.evaluation import predict_log
from tlx.scaling.isoflop import group_budgets
from tlx.scaling.laws import get_law
from tlx.scaling.runs import RunTable, rows_of
from tlx.scaling.simulation import BESIROGLU, grid

KINDS = (
    "clean",
    "heteroscedastic",
    "outliers",
    "missing cells",
    "three budgets",
    "another law",
    "slope change",
    "learning-rate penalty",
    "unreported repetition",
)
NOISE = 0.003

# Compute of the run that is forecast: 20 times the largest of the sweep.
FAR = 2e22


def losses(kind: str, runs: RunTable) -> np.ndarray:
    """Exact losses of a kind of sweep: Chinchilla's law with the flaw that the kind names."""
    n = runs["N"]
    d = runs["D"]
    q = BESIROGLU
    if kind == "another law":
        law = get_law("kaplan")
        return np.exp(predict_log(law, runs, law.theta({"A": 7e10, "D_c": 5.4e13, "p": 0.8, "beta": 0.095})))
    if kind == "unreported repetition":
        law = get_law("repeat")
        constants = law.theta(q | {"R_D": 15.387756, "R_N": 5.309743})
        return np.exp(predict_log(law, runs | {"D_unique": np.minimum(d, 8e9)}, constants))
    data = q["B"] * d ** -q["beta"]
    if kind == "slope change":
        slow = q["B"] * 3e9 ** -q["beta"] * (d / 3e9) ** (-q["beta"] / 2)
        data = np.where(d > 3e9, slow, data)
    loss = q["E"] + q["A"] * n ** -q["alpha"] + data
    if kind == "learning-rate penalty":  # tuned at 3e8 parameters and used for all sizes
        loss = loss * (1 + 0.004 * np.maximum(0, np.log(n / 3e8)) ** 2)
    return loss


def sweep(kind: str, seed: int) -> tuple[RunTable, RunTable]:
    """Return a sweep with noise, and one larger run at Chinchilla's optimum with its measured loss."""
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    runs = grid(np.geomspace(1e18, 1e21, 3 if kind == "three budgets" else 6), 7)
    rows = len(runs["N"])
    noise = np.full(rows, NOISE)
    if kind == "heteroscedastic":
        noise *= np.interp(np.log(runs["flops"]), np.log([1e18, 1e21]), [3, 0.5])
    error = noise * rng.normal(size=rows)
    if kind == "outliers":
        error += np.where(rng.random(rows) < 0.08, rng.uniform(0.03, 0.3, rows), 0)
    runs = runs | {"loss": losses(kind, runs) * np.exp(error)}
    if kind == "missing cells":
        runs = rows_of(runs, rng.random(rows) > 0.3)
    far = grid([FAR], 1, 1)
    return runs, far | {"loss": losses(kind, far) * np.exp(noise[-1] * rng.normal(size=1))}


class HoldOut(NamedTuple):
    """A budget of a public table, and the runs of at most a fraction 1 / times of its compute."""

    name: str
    times: int
    below: RunTable
    target: RunTable


def public_tables() -> dict[str, RunTable]:
    """Runs of each public table and configuration that hold-outs are made of."""
    tables = {
        "chinchilla_epoch": load_runs(table("chinchilla_epoch.csv"), "chinchilla_epoch"),
        "kyo_takano": load_runs(table("chinchilla_kyo_takano.csv")),
        "llama3": load_runs(table("llama3_isoflops.csv"), condition="raw_loss"),
    }
    for dataset in ("rpj", "c4_original", "rw_original"):
        tables[f"gadre {dataset}"] = load_runs(table("gadre_models.csv"), "gadre", dataset=dataset)
    porian = [
        ("base", "long", "kaplan"),
        ("base", "short", "kaplan"),
        ("base", "short", "chinchilla"),
        ("tuned", "short", "const"),
    ]
    for hparams, warmup, decay in porian:
        choose = {"hparams": hparams, "warmup": warmup, "decay": decay}
        runs = load_runs(table("porian_rw_standard.csv"), "porian", **choose)
        tables[f"porian {hparams} {warmup} {decay}"] = runs
    return tables


def hold_outs(name: str, runs: RunTable) -> Iterator[HoldOut]:
    """Yield every budget (or octave, of more than 16) that three budgets and 12 runs lie 4, 8 or 20 times below."""
    groups = group_budgets(runs)
    if len(groups) > 16:
        octaves = np.log2(runs["flops"] / runs["flops"].min())
        groups = [
            np.flatnonzero(np.floor(octaves + 1e-9) == octave)
            for octave in np.unique(np.floor(octaves + 1e-9))
        ]
    for times in (4, 8, 20):
        for group in groups:
            most = runs["flops"][group].min() / times * 1.001
            below = np.flatnonzero(runs["flops"] <= most)
            budgets = sum(bool((runs["flops"][other] <= most).all()) for other in groups)
            if len(below) >= 12 and budgets >= 3:
                yield HoldOut(name, times, rows_of(runs, below), rows_of(runs, group))
