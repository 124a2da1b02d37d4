"""Runs drawn from a known law with noise: for testing plans and statistics in seconds."""

from collections.abc import Mapping, Sequence

import numpy as np

from tlx.scaling.evaluation import predict_log
from tlx.scaling.laws import get_law
from tlx.scaling.runs import RunTable

# Besiroglu et al. 2404.10102, table 1.
BESIROGLU = {"A": 482.01, "B": 2085.43, "E": 1.8172, "alpha": 0.3478, "beta": 0.3658}


def grid(
    budgets: Sequence[float] | np.ndarray,
    sizes: int = 7,
    span: float = 8.0,
    params: Mapping[str, float] = BESIROGLU,
    center: float = 1.0,
) -> RunTable:
    """Make the table of an iso-FLOP sweep, without losses.

    Args:
        budgets: Training FLOPs of each budget.
        sizes: Sizes per budget.
        span: Factor between the middle size and the smallest or largest.
        params: Constants of Chinchilla's law, whose optimum is the middle.
        center: Factor by which the middle is off the optimum.

    Returns:
        Columns N, D and flops = 6 N D.
    """
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
    """Add the losses of a law to a table, each times exp(noise * normal).

    Args:
        runs: Columns that the law reads.
        params: Constants of the law.
        noise: Standard deviation of ln loss.
        law: Name of the law.
        seed: Seed of the noise.

    Returns:
        The table with the law's target column.
    """
    known = get_law(law)
    exact = predict_log(known, runs, known.theta(params))
    return runs | {known.target: np.exp(exact + noise * np.random.default_rng(seed).normal(size=len(exact)))}
