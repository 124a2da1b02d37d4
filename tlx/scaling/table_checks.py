"""Checks of a table against what runs can be: units, columns that are swapped, losses that are none.

Values that no run can have are errors. Values that are only unlikely are warnings, which name the rows or the
number: the fit goes on.
"""

import warnings

import numpy as np

from tlx.base.errors import DataError
from tlx.metrics.correlation import spearman
from tlx.scaling.law_form import Law
from tlx.scaling.runs import RunTable, describe_row, require

# The largest value of a column lies between these ends: below them it is in millions or billions.
_SPAN = {
    "N": (1e3, 1e16, "parameters", "N (millions)"),
    "D": (1e3, 1e19, "tokens", "D (billions)"),
    "flops": (1e6, 1e34, "FLOPs", "flops (PF-days)"),
}

# flops / (6 N D) of any run: embeddings, attention and sparse layers move it by less, a wrong unit by more.
_UNIT_FACTOR = 300.0

# Tokens per parameter below which the median run has more parameters than text: the columns may be swapped.
_LEAST_TOKENS = 0.5

# A uniform guess over 3 million tokens costs 15 nats; perplexities of language models are usually larger.
_MAX_LOSS = 15.0

# Rank correlation of loss and compute from which a loss counts as rising.
_RISING = 0.3

# A residual of ln loss so large, and so many times the usual one, is a diverged or mistyped run.
_FAR = 0.3
_FAR_SIGMAS = 10.0


def check(runs: RunTable, law: Law, approach: int) -> None:
    """Check a table before a law is fitted to it.

    Args:
        runs: The table, with N and flops by the fit's convention.
        law: The law.
        approach: 1, 2 or 3; 1 and 2 read N, D and flops.

    Raises:
        DataError: A column that is read is missing or not positive, or is in a unit that no run can have.
    """
    columns = dict.fromkeys((*law.columns, law.target))
    if approach != 3:
        columns |= dict.fromkeys(("N", "D", "flops"))
    # Optima and backtests read the flops of every table that has them, as a function of N and D.
    if "flops" in runs:
        columns |= dict.fromkeys(name for name in ("N", "D", "flops") if name in runs)
    user = f"law {law.name!r}" if approach == 3 else f"approach {approach}"
    require(runs, tuple(columns), user)
    if {"N", "N_active"} <= columns.keys():
        _check_active(runs)
    _check_units(runs, columns)
    if {"N", "D"} <= columns.keys():
        _warn_of_swapped(runs)
    if law.target == "loss":
        _warn_of_losses(runs)


def _check_active(runs: RunTable) -> None:
    """Raise DataError where a token meets more parameters than the model has."""
    bad = np.flatnonzero(runs["N_active"] > runs["N"])
    if len(bad):
        rows = "1 row is" if len(bad) == 1 else f"{len(bad)} rows are"
        row = int(bad[0])
        raise DataError(
            f"N_active must be N or less; {rows} not, the first is {describe_row(runs, row)} with N_active "
            f"{runs['N_active'][row]:.4g}: N holds all parameters, N_active those that a token meets"
        )


def reason(runs: RunTable, law: Law) -> str:
    """Say what does not vary in a table whose constants are not determined; empty where all of it does."""
    columns = [name for name in law.columns if name in runs]
    same = [f"{name} = {runs[name][0]:.4g}" for name in (*columns, law.target) if _constant(runs[name])]
    if not same and {"N", "D"} <= set(columns) and _constant(runs["D"] / runs["N"]):
        same = [f"D / N = {runs['D'][0] / runs['N'][0]:.4g}"]
    if not same and "flops" in runs and _constant(runs["flops"]):
        same = [f"flops = {runs['flops'][0]:.4g}"]
    return f"; every run has {' and '.join(same)}" if same else ""


def warn_of_outliers(runs: RunTable, residuals: np.ndarray) -> None:
    """Warn of rows whose ln loss is far from the fit: they are kept, and named.

    residuals: [rows], measured minus fitted.
    """
    usual = 1.4826 * float(np.median(np.abs(residuals - np.median(residuals))))
    far = np.flatnonzero(np.abs(residuals) > max(_FAR, _FAR_SIGMAS * usual))
    if not len(far):
        return
    worst = int(far[np.argmax(np.abs(residuals[far]))])
    times = float(np.exp(residuals[worst]))
    count = "1 row is" if len(far) == 1 else f"{len(far)} rows are"
    warnings.warn(
        f"{count} far from the fit, and kept; the farthest is {describe_row(runs, worst)}, {times:.3g} times what "
        "the fit expects: did it diverge?",
        stacklevel=5,
    )


def _check_units(runs: RunTable, columns: dict[str, None]) -> None:
    for name, (low, high, unit, example) in _SPAN.items():
        if name not in columns:
            continue
        largest = float(runs[name].max())
        if not low <= largest <= high:
            raise DataError(
                f"{name} is read as {unit}, and its largest value is {largest:.4g}, which no run has: write the "
                f"numbers in full, with their unit (1.3B), or with the unit in the column's name: {example!r}"
            )
    if not {"N", "D", "flops"} <= columns.keys():
        return
    ratio = float(np.exp(np.median(np.log(runs["flops"]) - np.log(6 * runs["N"]) - np.log(runs["D"]))))
    if not 1 / _UNIT_FACTOR < ratio < _UNIT_FACTOR:
        raise DataError(
            f"flops are {ratio:.3g} times 6 N D in the median run: one of N, D and flops is in another unit "
            "(parameters, tokens and FLOPs are needed); without the column flops, 6 N D is used"
        )


def _warn_of_swapped(runs: RunTable) -> None:
    tokens = float(np.median(runs["D"] / runs["N"]))
    if tokens < _LEAST_TOKENS:
        warnings.warn(
            f"the median run has {tokens:.2g} tokens per parameter: are the columns N and D swapped?",
            stacklevel=4,
        )


def _warn_of_losses(runs: RunTable) -> None:
    loss = runs["loss"]
    median = float(np.median(loss))
    if median > _MAX_LOSS:
        warnings.warn(
            f"the median loss is {median:.4g}: if it is a perplexity, its logarithm is the loss of the law",
            stacklevel=4,
        )
    compute = sum(np.log(runs[name]) for name in ("N", "D") if name in runs)
    if "flops" in runs:
        compute = np.log(runs["flops"])
    if np.ndim(compute) == 0 or len(loss) < 4 or np.ptp(compute) < 1e-6 or np.ptp(loss) == 0:
        return
    rank = spearman(np.asarray(compute), loss)
    if rank > _RISING:
        warnings.warn(
            f"the loss rises with compute (rank correlation {rank:.2f}): a law describes a loss that falls, not an "
            "accuracy or a negated loss",
            stacklevel=4,
        )


def _constant(values: np.ndarray) -> bool:
    return bool(np.ptp(np.log(values)) < 1e-3)
