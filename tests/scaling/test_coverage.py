"""How many intervals of forecasts hold the measured loss, by default options; configs/scaling/README.md has figures.

`pytest -m long -s tests/scaling/test_coverage.py`. Sweeps are resumable: with TLX_SWEEPS=FOLDER each forecast is kept
there and not made again; TLX_SWEEP_COUNT sets how many there are of each kind (200).
"""

import json
import os
import pathlib
import warnings

import numpy as np
import pytest
from scipy.stats import binomtest

from tests.scaling.sweeps import KINDS, hold_outs, public_tables, sweep
from tests.tiers import tiers
from tlx.scaling import drift, fit, predict_loss
from tlx.scaling.drift import IDENTIFIED, Outlook

# Flaws of which a forecast has to warn.
WARNED = ("slope change", "learning-rate penalty")


def forecast(kind, seed):
    """[inside, error of ln loss, width, probability of a drift] of one simulated sweep."""
    runs, far = sweep(kind, seed)
    guess = predict_loss(fit(runs, boot=0), N=far["N"][0], D=far["D"][0])
    inside = bool(guess.low <= far["loss"][0] <= guess.high)
    error = float(np.log(far["loss"][0] / guess.loss))
    return [inside, error, float(np.log(guess.high / guess.low)), guess.drift_probability]


def many(kind, count):
    """Forecasts [count, 4] of sweeps of a kind, read from TLX_SWEEPS as far as they are there."""
    folder = os.environ.get("TLX_SWEEPS")
    path = pathlib.Path(folder) / f"{kind}.jsonl" if folder else None
    lines = []
    if path is not None and path.exists():
        lines = [json.loads(line) for line in path.read_text().splitlines()]
    for seed in range(len(lines), count):
        lines.append(forecast(kind, seed))
        if path is not None:
            with path.open("a") as file:
                file.write(json.dumps(lines[-1]) + "\n")
    return np.array(lines[:count], float)


def interval(hits, count):
    """Coverage with its 95% binomial interval, as text."""
    ends = binomtest(int(hits), int(count)).proportion_ci(method="wilson")
    return f"{hits:3.0f} of {count} = {hits / count:.3f} ({ends.low:.3f}, {ends.high:.3f})"


@pytest.mark.parametrize(
    "kind", tiers(("clean", "learning-rate penalty"), slow=("clean", "learning-rate penalty"))
)
def test_a_few_sweeps(kind):
    results = many(kind, 20)
    assert results[:, 0].sum() >= 17
    assert np.median(results[:, 2]) < (0.02 if kind == "clean" else 0.08)
    identified = (results[:, 3] >= IDENTIFIED).sum()
    assert identified >= 18 if kind in WARNED else identified <= 2


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_sweeps(kind):
    results = many(kind, int(os.environ.get("TLX_SWEEP_COUNT", 200)))
    width = float(np.median(results[:, 2]))
    spread = float(np.ptp(np.quantile(results[:, 1], [0.025, 0.975])))
    warned = float((results[:, 3] >= IDENTIFIED).mean())
    print(
        f"\n{kind}: inside {interval(results[:, 0].sum(), len(results))}, width {width:.2%}, errors {spread:.2%}, "
        f"ratio {width / spread:.2f}, bias {np.median(results[:, 1]):+.2%}, drift identified in {warned:.0%}"
    )
    assert results[:, 0].mean() >= 0.85
    assert warned >= 0.9 if kind in WARNED else True


def row_of_page(case, measured, guess):
    """A row of the table in configs/scaling/README.md: each table's largest budget."""
    low, center, high = (float(np.exp(value[0])) for value in (guess.low, guess.center, guess.high))
    loss = float(np.exp(measured))
    inside = "inside" if low <= loss <= high else "**miss**"
    budget = f"{case.target['flops'].mean():.2g}"
    return (
        f"| {case.name} | {case.times} | {len(case.below['N'])} | {budget} | {center:.3f} ({low:.3f} to {high:.3f}) "
        f"| {loss:.3f} | {center / loss - 1:+.1%}, {inside} |"
    )


@pytest.mark.long
def test_public_tables(monkeypatch):
    """Hold-outs of 4, 8 and 20 times; the power of the held-out score is chosen on the other tables each time."""
    families = {}
    latest = {}
    default = drift._TEMPER
    powers = (0.3, default, 1.0)
    unfitted = 0
    for name, runs in public_tables().items():
        for case in hold_outs(name, runs):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                fitted = fit(case.below, boot=0)
            if not fitted.ok:
                unfitted += 1
                continue
            best = fitted.optimal(float(case.target["flops"].mean())).N
            row = int(np.argmin(np.abs(np.log(case.target["N"] / best))))
            target = {column: case.target[column][[row]] for column in ("N", "D", "flops")}
            measured = float(np.log(case.target["loss"][row]))
            hits = []
            for power in powers:
                monkeypatch.setattr(drift, "_TEMPER", power)
                guess = Outlook(fitted).forecast(target)
                hits.append(bool(guess.low[0] <= measured <= guess.high[0]))
                if power == default:
                    latest[name, case.times] = row_of_page(case, measured, guess)
            families.setdefault(name.split()[0], []).append((case.times, name, hits))
    print("\n" + "\n".join(latest.values()))
    print(f"{unfitted} hold-outs are not identified")
    for times in (4, 8, 20):
        cases = [case for family in families.values() for case in family if case[0] == times]
        for i, power in enumerate(powers):
            print(f"x{times} power {power}: {interval(sum(case[2][i] for case in cases), len(cases))}")
    held = total = 0
    for name, cases in families.items():
        others = [case[2] for other, items in families.items() if other != name for case in items]
        chosen = int(np.argmin(np.abs(np.mean(others, axis=0) - 0.95)))
        held += sum(case[2][chosen] for case in cases)
        total += len(cases)
        count = interval(sum(case[2][chosen] for case in cases), len(cases))
        print(f"{name}: power {powers[chosen]} by the other tables, {count}")
    print(f"leave one table out: {interval(held, total)}")
    assert held / total >= 0.85
