"""Runs drawn from a known law with noise: for testing plans and statistics in seconds."""

from collections.abc import Mapping, Sequence

import numpy as np

from tlx.scaling.laws import get_law, predict_log
from tlx.scaling.runs import RunTable

# Besiroglu et al. 2404.10102, table 1.
BESIROGLU = {"A": 482.01, "B": 2085.43, "E": 1.8172, "alpha": 0.3478, "beta": 0.3658}


def grid(
    budgets: Sequence[float],
    sizes: int = 7,
    span: float = 8.0,
    params: Mapping[str, float] = BESIROGLU,
    center: float = 1.0,
) -> RunTable:
    """N, D and flops = 6 N D of an iso-FLOP sweep: `sizes` sizes within a factor `span` of the best on
    either side, their middle off by `center`."""
    c = np.repeat(np.asarray(budgets, float), sizes)
    a = params["beta"] / (params["alpha"] + params["beta"])
    g = (params["alpha"] * params["A"] / params["beta"] / params["B"]) ** (
        1 / (params["alpha"] + params["beta"])
    )
    factors = np.tile(np.exp(np.linspace(-np.log(span), np.log(span), sizes)), len(budgets))
    n = g * (c / 6) ** a * center * factors
    return {"N": n, "D": c / (6 * n), "flops": c}


def draw(
    runs: RunTable,
    params: Mapping[str, float] = BESIROGLU,
    noise: float = 0.0,
    law: str = "chinchilla",
    seed: int = 0,
) -> RunTable:
    """The table with losses of a law, times exp(noise x normal)."""
    known = get_law(law)
    exact = predict_log(known, runs, known.theta(params))
    return runs | {known.target: np.exp(exact + noise * np.random.default_rng(seed).normal(size=len(exact)))}
