"""What `tlx scale` prints for people: figures rounded to what their intervals say."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tlx.scaling.backtest import Backtest
from tlx.scaling.fits import Fit


def columns(rows: Iterable[Sequence[Any]]) -> str:
    """Aligned columns, two spaces between."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    )


def number(value: Any) -> str:
    """1.23e+18, 1,234 or 0.123."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, int) and abs(value) < 1e7:
        return f"{value:,}"
    return f"{value:.3g}" if not 1 <= abs(value) < 1e4 else f"{value:,.4g}"


def rounded(value: float, ends: Sequence[float] | None) -> str:
    """A value to the digit that its interval leaves certain, and the interval."""
    if ends is None:
        return f"{value:.4g}"
    width = abs(ends[1] - ends[0])
    digits = 2 - math.floor(math.log10(width)) if width > 0 else 6
    if abs(value) >= 1e5 or abs(value) < 1e-3:
        return f"{value:.3g} ({ends[0]:.3g}, {ends[1]:.3g})"
    digits = max(0, min(8, digits - 1))
    return f"{value:.{digits}f} ({ends[0]:.{digits}f}, {ends[1]:.{digits}f})"


def plan(made: Mapping[str, Any]) -> str:
    """One line a run."""
    head = ("run", "depth", "width", "N", "D", "D/N", "exact", "6ND", "Kaplan", "Chinchilla")
    head += ("steps", "batch", "lr", "seed", "MiB", "time")
    rows = [head]
    for r in made["runs"]:
        rows.append(
            (
                r["run"],
                r["depth"],
                r["width"],
                number(r["N"]),
                number(r["D"]),
                number(r["D"] / r["N"]),
                *(f"{r[f'flops_{name}']:.3g}" for name in ("exact", "6nd", "kaplan", "chinchilla")),
                f"{r['steps']:,}",
                f"{r['batch_tokens']:,}",
                f"{r['lr']:.3g}",
                r["seed"],
                f"{r['memory_bytes'] / 2**20:,.0f}",
                duration(r["seconds"]),
            )
        )
    total = f"{len(made['runs'])} runs, {made['total_flops']:.4g} FLOP, {duration(made['hours'] * 3600)}"
    return columns(rows) + f"\n{total} one after the other"


def status(found: Mapping[str, Any]) -> str:
    """One line a run, and what is left."""
    rows = [("run", "status", "step", "of", "N", "D", "lr", "loss")]
    for r in found["runs"]:
        again = f" (again {r['retry_of']})" if r.get("retry_of") else ""
        loss = "-" if r["loss"] is None else f"{r['loss']:.4f}"
        row = (r["run"], r["status"] + again, f"{r['step']:,}", f"{r['steps']:,}", number(r["N"]))
        rows.append((*row, number(r["D"]), f"{r['lr']:.3g}", loss))
    left = "" if found["seconds_left"] in (None, 0) else f", about {duration(found['seconds_left'])} of work"
    counts = f"{found['done']} done, {found['diverged']} diverged, {found['failed']} failed"
    return columns(rows) + f"\n{counts}, {found['left']} left{left}"


def fit(found: Fit, tests: Mapping[str, Any]) -> str:
    """Constants with intervals, then how far they can be trusted."""
    ci = found.ci or {}
    lines = [f"law {found.law}, approach {found.approach}, loss {found.loss}, convention {found.convention}"]
    lines.append(
        f"{len(found.runs['loss'] if 'loss' in found.runs else found.residuals)} runs: {found.status}"
    )
    for name, value in found.params.items():
        lines.append(f"  {name:14} {rounded(value, ci.get(name))}")
    if found.exponents is not None:
        a, b = found.exponents
        lines.append(f"N* ~ C^{rounded(a, ci.get('a'))}, D* ~ C^{rounded(b, ci.get('b'))}")
    if found.approach == 3:
        lines.append(f"objective {found.objective:.10g}; {found.agreeing} of {found.starts} starts agree")
        lines.append(f"residuals {found.noise:.2%} of the loss")
    for m in found.minima:
        what = m.edge or f"N* {number(m.N)}, D* {number(m.D)}, loss {m.loss:.4f} ({m.curve})"
        lines.append(f"  {m.flops:.3g} FLOP: {what}")
    if tests.get("influence"):
        lines.append("largest changes of the exponent without one run:")
        lines += [f"  {change:+.4f}  {name}" for name, change in tests["influence"]]
    for title, key in (("by loss", "by_delta"), ("by convention", "by_convention")):
        if tests.get(key):
            shown = ", ".join(
                f"{k} {'not identified' if v is None else f'{v:.4f}'}" for k, v in tests[key].items()
            )
            lines.append(f"exponent {title}: {shown}")
    if "approach_2" in tests:
        lines.append(_cross_check(found, tests["approach_2"]))
    return "\n".join(lines)


def _cross_check(found: Fit, other: Mapping[str, Any]) -> str:
    if other["exponents"] is None:
        return f"iso-FLOP minima: {other['status']}"
    a, low, high = other["exponents"][0], *(found.ci or {}).get("a", (-math.inf, math.inf))
    verdict = "agrees" if low <= a <= high else "DISAGREES: outside the interval above"
    return f"iso-FLOP minima: exponent {a:.4f}, {verdict}"


def backtest(result: Backtest) -> str:
    """Errors by octave."""
    rows = [("octaves ahead", "runs", "mean error", "bias", "coverage of 95%")]
    for o in result.table:
        rows.append((o.octaves, o.runs, f"{o.error:.2%}", f"{o.bias:+.2%}", f"{o.coverage:.0%}"))
    rate = f"{result.folds} folds; intervals are widened by {2 * result.rate:.2%} per octave"
    return columns(rows) + f"\n{rate}" + (f"\nWARNING: {result.warning}" if result.warning else "")


def suggest(rows: Sequence[Any], flops: float) -> str:
    """The next runs."""
    table = [("N", "D", "FLOP", "95% width after it", "why")]
    table += [(number(r.N), number(r.D), f"{r.flops:.3g}", f"{r.interval:.2%}", r.why) for r in rows]
    return f"to forecast {flops:.3g} FLOP:\n" + columns(table)


def predict(answer: Mapping[str, Any], found: Fit) -> str:
    """The run to make."""
    lines = [f"{answer['flops']:.4g} FLOP, law {found.law}, convention {found.convention}"]
    for name in ("N", "D"):
        lines.append(f"  {name}* {rounded(answer[name], answer.get(f'{name}_interval'))}")
    lines.append(f"  tokens per parameter {answer['tokens_per_param']:.3g}")
    if "loss" in answer:
        lines.append(f"  loss {rounded(answer['loss'], answer['interval'])}")
        beyond, drift = answer["octaves_beyond"], answer["drift"]
        lines.append(f"  {beyond:.2g} octaves beyond the runs; each side widened by {drift:.2%} for drift")
    if answer.get("warning"):
        lines.append(f"  WARNING: {answer['warning']}")
    for share, (low, high) in answer.get("flat", {}).items():
        lines.append(f"  within {share} of the loss: N from {number(low)} to {number(high)}")
    rate, batch = answer["learning_rate"], answer["batch_tokens"]
    lines.append(f"  by {answer['rate_law']}: learning rate {rate:.3g}, batch {number(batch)} tokens")
    if "epochs" in answer:
        lines.append(f"  {answer['epochs']:.3g} passes over {number(answer['D_unique'])} tokens")
    if "accelerator_hours" in answer:
        lines.append(f"  {number(answer['accelerator_hours'])} accelerator-hours")
    for name in ("kaplan", "chinchilla"):
        other = answer[name]
        lines.append(f"  {name.capitalize()} would take N {number(other['N'])}, D {number(other['D'])}")
    lines.append("  (Kaplan: 8 times the model wants about 5 times the data; Chinchilla: 8 times)")
    if "buildable" in answer:
        b = answer["buildable"]
        lines.append(
            f"nearest buildable: depth {b['depth']}, width {b['width']}, N {number(b['N'])}, "
            f"D {number(b['D'])}, lr {b['lr']:.3g}: loss {rounded(b['loss'], b['interval'])}"
        )
    if "measured" in answer:
        lines.append(_measured(answer["measured"], answer["buildable"]))
    return "\n".join(lines)


def _measured(measured: Mapping[str, Any], run: Mapping[str, Any]) -> str:
    if measured["loss"] is None:
        return f"measured: {measured['status']}"
    inside = "inside" if measured["inside"] else "OUTSIDE"
    return (
        f"measured: {measured['loss']:.4f}, predicted {run['loss']:.4f}, error {measured['error']:+.2%}, "
        f"{inside} the interval"
    )


def compare(result: Mapping[str, Any]) -> str:
    """Which recipe wins."""
    one, two = result["loss"]
    low, high = result["ratio_interval"]
    lines = [f"at {result['flops']:.4g} FLOP, each at its own best size:"]
    lines.append(f"  first  {one:.4f} (N {number(result['N'][0])})")
    lines.append(f"  second {two:.4f} (N {number(result['N'][1])})")
    lines.append(f"the first is lower with probability {result['probability']:.3f}")
    lines.append(f"ratio of losses {result['ratio']:.4f} ({low:.4f}, {high:.4f})")
    factor = result["compute_factor"]
    if math.isfinite(factor):
        lines.append(f"the second needs {factor:.3g} times the compute for the first's loss")
    return "\n".join(lines)


def hparams(result: Mapping[str, Any]) -> str:
    """The laws, or why there are none."""
    lines = [result["status"]]
    for name in ("lr", "batch"):
        if name in result:
            law = result[name]
            powers = "".join(f" {p}^{law[p]:.4g}" for p in ("N", "D") if p in law)
            lines.append(f"{name}* = {law['coefficient']:.4g}{powers}")
    return "\n".join(lines)


def coordinates(checks: Sequence[Any], path: str) -> str:
    """Powers of the width with which activations change."""
    rows = [("width^", *checks[0].powers)]
    rows += [(check.name, *(f"{power:+.2f}" for power in check.powers.values())) for check in checks]
    verdicts = [f"{c.name}: {'steady' if c.steady else 'grows with the width'}" for c in checks]
    return columns(rows) + "\n" + "; ".join(verdicts) + f"\nplot: {path}"


def downstream(result: Mapping[str, Any]) -> str:
    """Errors of the models left out."""
    lines = [f"{result['form']}: {result['status']}"]
    lines += [f"  {name} {value:.4g}" for name, value in (result.get("params") or {}).items()]
    for name in ("loss_error", "metric_error", "metric_error_from_measured_loss"):
        if name in result:
            lines.append(f"{name.replace('_', ' ')}: " + ", ".join(f"{e:.2%}" for e in result[name]))
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """ "3 h 20 min", "20 s"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    if minutes < 90:
        return f"{minutes:.0f} min"
    return f"{minutes / 60:,.1f} h"
