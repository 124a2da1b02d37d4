"""Tables that `tlx scale` prints, with numbers rounded to the digits that their intervals support."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tlx.scaling.backtesting import Backtest
from tlx.scaling.fits import Fit
from tlx.scaling.suggestions import Halving, Suggestion


def columns(rows: Iterable[Sequence[Any]]) -> str:
    """Return aligned columns with two spaces between them."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    lines = []
    for row in cells:
        padded = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def number(value: Any) -> str:
    """Return 1.23e+18, 1,234 or 0.123; "-" for None and NaN."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, int) and abs(value) < 1e7:
        return f"{value:,}"
    return f"{value:.3g}" if not 1 <= abs(value) < 1e4 else f"{value:,.4g}"


def rounded(value: float, ends: Sequence[float] | None) -> str:
    """Return a value to the digit that its interval leaves certain, and the interval."""
    if ends is None:
        return f"{value:.4g}"
    low, high = ends
    if abs(value) >= 1e5 or abs(value) < 1e-3:
        return f"{value:.3g} ({low:.3g}, {high:.3g})"
    width = abs(high - low)
    digits = 1 - math.floor(math.log10(width)) if 0 < width < math.inf else 5
    digits = max(0, min(8, digits))
    return f"{value:.{digits}f} ({low:.{digits}f}, {high:.{digits}f})"


def plan(planned: Mapping[str, Any]) -> str:
    """Return the table of a plan: one line per run."""
    rows: list[Sequence[Any]] = [
        (
            "run",
            "depth",
            "width",
            "N",
            "D",
            "D/N",
            "exact",
            "6ND",
            "Kaplan",
            "Chinchilla",
            "steps",
            "batch",
            "lr",
            "seed",
            "MiB",
            "time",
        )
    ]
    for row in planned["runs"]:
        rows.append(
            (
                row["run"],
                row["depth"],
                row["width"],
                number(row["N"]),
                number(row["D"]),
                number(row["D"] / row["N"]),
                *(f"{row[f'flops_{name}']:.3g}" for name in ("exact", "6nd", "kaplan", "chinchilla")),
                f"{row['steps']:,}",
                f"{row['batch_tokens']:,}",
                f"{row['lr']:.3g}",
                row["seed"],
                _mebibytes(row["memory_bytes"]),
                duration(row["seconds"]),
            )
        )
    time = duration(planned["hours"] * 3600)
    total = f"{len(planned['runs'])} runs, {planned['total_flops']:.4g} FLOP, {time}"
    return columns(rows) + f"\n{total} one after the other"


def _mebibytes(size: int | None) -> str:
    return "-" if size is None else f"{size / 2**20:,.0f}"


def status(progress: Mapping[str, Any]) -> str:
    """Return the table of a ladder's runs, and what is left."""
    rows: list[Sequence[Any]] = [("run", "status", "step", "of", "N", "D", "lr", "loss")]
    for row in progress["runs"]:
        retry = f" (again {row['retry_of']})" if row.get("retry_of") else ""
        rows.append(
            (
                row["run"],
                row["status"] + retry,
                f"{row['step']:,}",
                f"{row['steps']:,}",
                number(row["N"]),
                number(row["D"]),
                f"{row['lr']:.3g}",
                "-" if row["loss"] is None else f"{row['loss']:.4f}",
            )
        )
    left = ""
    if progress["seconds_left"] not in (None, 0):
        left = f", about {duration(progress['seconds_left'])} of work"
    counts = f"{progress['done']} done, {progress['diverged']} diverged, {progress['failed']} failed"
    unscored = f", {progress['unscored']} without scores on tasks" if progress["unscored"] else ""
    return columns(rows) + f"\n{counts}, {progress['left']} left{left}{unscored}"


def fit(fitted: Fit, tests: Mapping[str, Any]) -> str:
    """Return the constants with intervals, then how far they can be trusted.

    tests: influence, by_delta, by_convention and approach_2, as far as they were made.
    """
    intervals = fitted.ci or {}
    settings = fitted.settings
    rows = len(fitted.runs["loss"] if "loss" in fitted.runs else fitted.residuals)
    lines = [
        f"law {fitted.law}, approach {fitted.approach}, loss {settings.loss}, convention {settings.convention}",
        f"{rows} runs: {fitted.status}",
    ]
    for name, value in (fitted.params or {}).items():
        lines.append(f"  {name:14} {rounded(value, intervals.get(name))}")
    if fitted.exponents is not None:
        a, b = fitted.exponents
        lines.append(f"N* ~ C^{rounded(a, intervals.get('a'))}, D* ~ C^{rounded(b, intervals.get('b'))}")
    if fitted.approach == 3:
        agree = f"{fitted.agreeing} of {settings.starts} starts agree"
        lines.append(f"objective {fitted.objective:.10g}; {agree}")
        lines.append(f"residuals {fitted.noise:.2%} of the loss")
    for minimum in fitted.minima:
        text = f"N* {number(minimum.N)}, D* {number(minimum.D)}, loss {minimum.loss:.4f} ({minimum.curve})"
        lines.append(f"  {minimum.flops:.3g} FLOP: {minimum.edge or text}")
    return "\n".join(lines + _tests(fitted, tests))


def _tests(fitted: Fit, tests: Mapping[str, Any]) -> list[str]:
    lines = []
    if tests.get("influence"):
        lines.append("largest changes of the exponent without one run:")
        lines += [f"  {change:+.4f}  {name}" for name, change in tests["influence"]]
    for title, key in (("by loss", "by_delta"), ("by convention", "by_convention")):
        if tests.get(key):
            shown = []
            for name, value in tests[key].items():
                shown.append(f"{name} not identified" if value is None else f"{name} {value:.4f}")
            lines.append(f"exponent {title}: {', '.join(shown)}")
    if "approach_2" in tests:
        lines.append(_cross_check(fitted, tests["approach_2"]))
    return lines


def _cross_check(fitted: Fit, other: Mapping[str, Any]) -> str:
    """The exponent of the iso-FLOP minima, and whether its interval meets that of the surface."""
    if other["exponents"] is None:
        return f"iso-FLOP minima: {other['status']}"
    a = other["exponents"][0]
    ends = (other["ci"] or {}).get("a")
    text = f"iso-FLOP minima: exponent {rounded(a, ends)}"
    own = (fitted.ci or {}).get("a")
    if own is None or ends is None:
        return text
    meet = max(own[0], ends[0]) <= min(own[1], ends[1])
    return f"{text}, {'agrees' if meet else 'DISAGREES: its interval is outside the interval above'}"


def backtest(result: Backtest) -> str:
    """Return the errors of a backtest by octave."""
    rows: list[Sequence[Any]] = [("octaves ahead", "runs", "mean error", "bias", "coverage of 95%")]
    for octave in result.table:
        rows.append(
            (
                octave.octaves,
                octave.runs,
                f"{octave.error:.2%}",
                f"{octave.bias:+.2%}",
                f"{octave.coverage:.0%}",
            )
        )
    text = columns(rows)
    text += f"\n{result.folds} folds; forecasts are {result.rate:.2%} off per octave, on average {result.slope:+.2%}"
    if result.warning:
        text += f"\nWARNING: {result.warning}"
    return text


def suggest(suggestions: Sequence[Suggestion], halved: Halving, flops: float) -> str:
    """Return the table of the next runs for a forecast, and what would halve its interval.

    Args:
        suggestions: The runs.
        halved: What it takes to halve the interval.
        flops: The budget of the forecast in FLOPs.

    Returns:
        The table as text.
    """
    rows: list[Sequence[Any]] = [("N", "D", "FLOP", "95% width after it", "why")]
    for run in suggestions:
        rows.append((number(run.N), number(run.D), f"{run.flops:.3g}", f"{run.interval:.2%}", run.why))
    text = f"to forecast {flops:.3g} FLOP (95% width by the law now {halved.before:.2%}):\n{columns(rows)}"
    runs = f"{halved.runs} such runs, {halved.flops:.3g} FLOP"
    if halved.after > halved.before / 2:
        text += f"\n{runs}, do not halve it: {halved.after:.2%}"
    else:
        text += f"\nto halve it: {runs} in all ({halved.after:.2%})"
    widths = f"{halved.forecast_before:.2%} wide now and {halved.forecast_after:.2%} after them"
    return f"{text}\nthe forecast's own interval, with drift and the measured run's noise: {widths}"


def curve(result: Mapping[str, Any]) -> str:
    """Return the forecast of the end of a run, and what was measured there."""
    loss = rounded(result["loss"], result["interval"])
    lines = [f"{result['kind']} loss of step {result['step']:,} from steps up to {result['seen']:,}: {loss}"]
    constants = ", ".join(f"{name} {value:.4g}" for name, value in result["params"].items())
    lines.append(f"{result['law']}: {constants}")
    if "measured" in result:
        lines.append(f"measured {result['measured']:.4f}: the forecast is {result['error']:+.2%} off")
    return "\n".join(lines)


def mixture(result: Mapping[str, Any]) -> str:
    """Return the best weights of a mixture, and how well the regression tells left-out runs."""
    best = result["best"]
    errors = ", ".join(f"{name} {error:.2%}" for name, error in result["errors"].items())
    lines = [
        f"left-out runs: {errors}; rank correlation {result['rank_correlation']:.3f}",
        f"best weights by the {result['form']} form:",
    ]
    lines += [f"  {name} {weight:.4f}" for name, weight in best["weights"].items()]
    lines.append(f"loss {rounded(best['loss'], (best['low'], best['high']))}")
    lines.append(
        f"below the runs' mean weights with probability {best['probability']:.0%}, by {best['gain']:.2%} of the loss"
    )
    if best["outside"] > 0.01:
        lines.append(f"WARNING: {best['outside']:.0%} outside the weights of the runs: test it with a run")
    return "\n".join(lines)


def predict(answer: Mapping[str, Any], fitted: Fit, is_optimum: bool) -> str:
    """Return the run to train, as lines.

    Args:
        answer: The forecast.
        fitted: The fit that it is of.
        is_optimum: Whether N and D are the budget's optimum, and not the user's.

    Returns:
        The text.
    """
    lines = [f"{answer['flops']:.4g} FLOP, law {fitted.law}, convention {fitted.settings.convention}"]
    for name in ("N", "D"):
        title = f"{name}*" if is_optimum else name
        lines.append(f"  {title} {rounded(answer[name], answer.get(f'{name}_interval'))}")
    lines.append(f"  tokens per parameter {answer['tokens_per_param']:.3g}")
    if "loss" in answer:
        lines.append(f"  loss {rounded(answer['loss'], answer['interval'])}")
        beyond = f"{answer['octaves_beyond']:.2g} octaves beyond the runs"
        lines.append(f"  {beyond}; the drift moves the loss by {answer['drift']:+.2%}")
    if answer.get("note"):
        lines.append(f"  {answer['note']}")
    if answer.get("warning"):
        lines.append(f"  WARNING: {answer['warning']}")
    for share, (low, high) in answer.get("flat", {}).items():
        lines.append(f"  within {share} of the loss: N from {number(low)} to {number(high)}")
    batch = f"batch {number(answer['batch_tokens'])} tokens"
    lines.append(f"  by {answer['rate_law']}: learning rate {answer['learning_rate']:.3g}, {batch}")
    if "epochs" in answer:
        lines.append(f"  {answer['epochs']:.3g} passes over {number(answer['D_unique'])} tokens")
    if "accelerator_hours" in answer:
        lines.append(f"  {number(answer['accelerator_hours'])} accelerator-hours")
    for name in ("kaplan", "chinchilla"):
        other = answer[name]
        lines.append(f"  {name.capitalize()} would take N {number(other['N'])}, D {number(other['D'])}")
    lines.append("  (Kaplan: 8 times the model wants about 5 times the data; Chinchilla: 8 times)")
    if "buildable" in answer:
        lines.append(_buildable(answer["buildable"]))
    if "measured" in answer:
        lines.append(_measured(answer["measured"], answer["buildable"]))
    return "\n".join(lines)


def _buildable(run: Mapping[str, Any]) -> str:
    size = f"depth {run['depth']}, width {run['width']}, N {number(run['N'])}, D {number(run['D'])}"
    return f"nearest buildable: {size}, lr {run['lr']:.3g}: loss {rounded(run['loss'], run['interval'])}"


def _measured(measured: Mapping[str, Any], run: Mapping[str, Any]) -> str:
    if measured["loss"] is None:
        return f"measured: {measured['status']}"
    inside = "inside" if measured["inside"] else "OUTSIDE"
    return (
        f"measured: {measured['loss']:.4f}, predicted {run['loss']:.4f}, error {measured['error']:+.2%}, "
        f"{inside} the interval"
    )


def compare(result: Mapping[str, Any]) -> str:
    """Return which recipe is better, as lines."""
    first, second = result["loss"]
    low, high = result["ratio_interval"]
    lines = [
        f"at {result['flops']:.4g} FLOP, each at its own best size:",
        f"  first  {first:.4f} (N {number(result['N'][0])})",
        f"  second {second:.4f} (N {number(result['N'][1])})",
        f"the first is lower with probability {result['probability']:.3f}",
        f"ratio of losses {result['ratio']:.4f} ({low:.4f}, {high:.4f})",
    ]
    factor = result["compute_factor"]
    if math.isfinite(factor):
        lines.append(f"the second needs {factor:.3g} times the compute for the first's loss")
    return "\n".join(lines)


def hparams(result: Mapping[str, Any]) -> str:
    """Return the laws of learning rate, batch and weight decay, or why there are none, and critical batches."""
    noise = "unknown" if result["noise"] is None else f"{result['noise']:.2%}"
    lines = [result["status"], f"runs within {result['window']:.0%} of their cell's best; noise {noise}"]
    for name in ("lr", "batch", "weight_decay"):
        if name in result:
            law = result[name]
            powers = "".join(
                f" {column}^{rounded(law[column], law.get('ci', {}).get(column))}"
                for column in ("N", "D")
                if column in law
            )
            lines.append(f"{name}* = {law['coefficient']:.4g}{powers}")
    for row in result["critical_batch"]:
        lines.append(
            f"N {number(row['N'])}: critical batch {number(row['critical_batch'])} tokens at loss {row['loss']:.4f}"
        )
    return "\n".join(lines)


def coordinates(checks: Sequence[Any], path: str) -> str:
    """Return the powers of the width with which activations change, and the path of the plot."""
    rows: list[Sequence[Any]] = [("width^", *checks[0].powers)]
    for check in checks:
        rows.append((check.name, *(f"{power:+.2f}" for power in check.powers.values())))
    verdicts = [f"{check.name}: {'steady' if check.steady else 'grows with the width'}" for check in checks]
    return columns(rows) + "\n" + "; ".join(verdicts) + f"\nplot: {path}"


def optima(checks: Sequence[Any], path: str) -> str:
    """Return the best learning rate of every model, its movement over width and depth, and the path of the plot."""
    rows: list[Sequence[Any]] = [("parametrisation", "width", "depth", "best rate", "without one seed")]
    lines = []
    for check in checks:
        models = {(model.width, model.depth): model for model in (*check.by_width, *check.by_depth)}
        for (width, depth), model in models.items():
            best = np.exp(model.best)
            known = np.isfinite(best).all()
            mean = f"{np.exp(np.mean(model.best)):.3g}" if known else "no minimum"
            spread = f"{best.min():.3g} to {best.max():.3g}" if known else "-"
            rows.append((check.name, width, depth, mean, spread))
        for size, moved in (("width", check.over_width), ("depth", check.over_depth)):
            power = f"{size}^{moved.power:+.2f} ({moved.low:+.2f} to {moved.high:+.2f})"
            lines.append(f"{check.name}: best rate ~ {power}: {moved.verdict}")
    return columns(rows) + "\n" + "\n".join(lines) + f"\nplot: {path}"


def downstream(result: Mapping[str, Any]) -> str:
    """Return the curve's constants and the errors of the held-out models."""
    lines = [f"{result['form']}: {result['status']}"]
    lines += [f"  {name} {value:.4g}" for name, value in (result.get("params") or {}).items()]
    for name in ("loss_error", "metric_error", "metric_error_from_measured_loss"):
        if name in result:
            errors = ", ".join(f"{error:.2%}" for error in result[name])
            lines.append(f"{name.replace('_', ' ')}: {errors}")
    for i, (low, high) in enumerate(result.get("interval", ())):
        predicted = rounded(result["predicted"][i], (low, high))
        lines.append(f"  predicted {predicted}, measured {result['measured'][i]:.4g}")
    if "chosen" in result:
        inner = ", ".join(f"{steps}: {error:.2%}" for steps, error in result["inner_errors"].items())
        lines.append(f"steps by the largest models within the fit ({inner}): {result['chosen']}")
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """Return a time as "20 s", "45 min" or "3.3 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    if minutes < 90:
        return f"{minutes:.0f} min"
    return f"{minutes / 60:,.1f} h"
