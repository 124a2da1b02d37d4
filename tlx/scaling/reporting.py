"""report: one self-contained HTML page about a fit, and its plots as PNG files beside it."""

import base64
import datetime
import functools
import html
import os
import pathlib
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tlx.base import place as places
from tlx.base.place import BucketPath, Place
from tlx.scaling import isoflop
from tlx.scaling.backtesting import backtest
from tlx.scaling.drift import log_compute, outlook
from tlx.scaling.evaluation import predict_log
from tlx.scaling.fits import Fit
from tlx.scaling.law_form import Law
from tlx.scaling.laws import get_law
from tlx.scaling.prediction import predict_loss
from tlx.scaling.provenance import data_hash, versions
from tlx.scaling.sensitivity import by_convention, influence

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:62em;margin:2em auto;padding:0 1em;color:#222}"
    "table{border-collapse:collapse;font-size:13px}td,th{padding:.15em .7em;text-align:right;"
    "border-bottom:1px solid #ddd}img{max-width:100%}.bad{color:#a00;font-weight:600}"
)

# Columns of the table of runs, as far as a table has them.
_SHOWN = ("run", "N", "D", "flops", "lr", "seed", "loss", "bits_per_byte", "status")

# Budgets above which the legend does not name them: it would cover the curves.
_MAX_LEGEND = 14


def report(
    fitted: Fit,
    folder: str | os.PathLike | BucketPath,
    flops: float | None = None,
    command: str = "tlx.scaling.report",
) -> Place:
    """Write the report of a fit: FOLDER/index.html and its PNGs.

    Args:
        fitted: The fit. One that is not identified gives a page that says so, with the runs and no constants.
        folder: Folder, or place in a bucket, that is written to; made where it does not exist.
        flops: The budget of the forecast; None for 10 times the largest. Not used by a law without an optimum.
        command: What made the report, as the page names it.

    Returns:
        Path of the page.
    """
    target = places.as_named(folder)
    with places.written_folder(target) as local:
        page = _write_report(fitted, local, flops, command)
    return target / page.name


def _write_report(fitted: Fit, folder: pathlib.Path, flops: float | None, command: str) -> pathlib.Path:
    """Write the report to a folder of this machine."""
    folder.mkdir(parents=True, exist_ok=True)
    if flops is None:
        flops = 10 * float(np.exp(log_compute(get_law(fitted.law), fitted.runs).max()))
    parts = [_summary(fitted, flops)]
    with matplotlib.rc_context({"font.size": 10}):
        for i, (title, plot) in enumerate(_plots(fitted, flops).items()):
            path = folder / f"{i + 1}-{title.split(':')[0].lower().replace(' ', '-')}.png"
            _draw(path, title, plot)
            data = base64.b64encode(path.read_bytes()).decode()
            parts.append(f"<h2>{title}</h2><img alt='{title}' src='data:image/png;base64,{data}'>")
    parts.append("<h2>Origin</h2>" + _origin(fitted, command))
    parts.append("<h2>Runs</h2>" + _table_of_runs(fitted))
    page = folder / "index.html"
    title = f"Scaling law: {fitted.law}"
    page.write_text(
        f"<!doctype html><html><head><meta charset='utf-8'><title>{title}</title><style>{_STYLE}</style>"
        f"</head><body><h1>{title}</h1>{''.join(parts)}</body></html>",
        encoding="utf-8",
    )
    return page


def _plots(fitted: Fit, flops: float) -> dict[str, Callable[[Axes], None]]:
    """The plots that a fit allows, by title; the forecast comes first."""
    plots: dict[str, Callable[[Axes], None]] = {}
    law = get_law(fitted.law)
    # At one budget the losses of other laws also differ in their other columns.
    of_budgets = law.is_surface_of_n_and_d or law.repeated
    budgets = of_budgets and {"N", "D", "flops", "loss"} <= fitted.runs.keys()
    best = fitted.ok and fitted.exponents is not None
    if best and fitted.approach == 3:
        plots["Loss against compute"] = lambda axes: _plot_forecast(axes, fitted, flops)
    if budgets:
        plots["Iso-FLOP curves and their minima"] = lambda axes: _plot_curves(axes, fitted)
    if best:
        plots["Best size and tokens against compute"] = lambda axes: _plot_optima(axes, fitted, flops)
    if fitted.ok and fitted.approach == 3:
        if law.is_surface_of_n_and_d and best:
            plots["Loss surface and efficient frontier"] = lambda axes: _plot_surface(axes, fitted, flops)
        else:
            plots["Fitted against measured losses"] = lambda axes: _plot_fitted(axes, fitted)
        plots["Residuals against compute"] = lambda axes: _plot_residuals(axes, fitted)
        for name in law.columns:
            if name != "flops":
                plots[f"Residuals against {name}"] = functools.partial(
                    _plot_residuals, fitted=fitted, column=name
                )
        if backtest(fitted).folds:
            plots["Backtest: errors of forecasts"] = lambda axes: _plot_backtest(axes, fitted)
    return plots


def _draw(path: pathlib.Path, title: str, plot: Callable[[Axes], None]) -> None:
    # A Figure of its own, not pyplot's: no state is shared with a notebook that calls report().
    figure = Figure(figsize=(8, 4.8), layout="constrained")
    axes = figure.add_subplot()
    plot(axes)
    axes.set_title(title)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def _plot_forecast(axes: Axes, fitted: Fit, flops: float) -> None:
    """The runs, and the forecast of the best run of each budget with its 95% band."""
    runs = fitted.runs
    target = get_law(fitted.law).target
    budgets = np.geomspace(runs["flops"].min(), max(flops, runs["flops"].max()), 60)
    rows = [fitted.optimal_row(budget) for budget in budgets]
    table = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    forecast = outlook(fitted).forecast(table)
    law = predict_log(get_law(fitted.law), table, fitted.constants())
    axes.plot(runs["flops"], runs[target], "k.", markersize=4, label="runs")
    axes.fill_between(
        budgets,
        np.exp(forecast.low),
        np.exp(forecast.high),
        color="tab:blue",
        alpha=0.25,
        label="95% of runs",
    )
    axes.plot(budgets, np.exp(forecast.center), color="tab:blue", label="forecast of the best run")
    axes.plot(
        budgets, np.exp(law), color="tab:orange", linestyle="--", linewidth=1, label="law without drift"
    )
    axes.axvline(runs["flops"].max(), color="gray", linestyle=":", label="largest run")
    axes.plot(
        flops, np.exp(outlook(fitted).forecast(fitted.optimal_row(flops)).center[0]), "r*", markersize=12
    )
    axes.set(xscale="log", yscale="log", xlabel="training FLOP", ylabel=target)
    ends = (float(np.exp(forecast.low).min()), float(max(runs[target].max(), np.exp(forecast.high).max())))
    _loss_ticks(axes, *ends)
    axes.legend(fontsize=8)


def _loss_ticks(axes: Axes, low: float, high: float) -> None:
    """Plain numbers on a logarithmic axis that spans less than a decade, where matplotlib would write 3x10^0."""
    low *= 0.98
    high *= 1.02
    ticks = ticker.MaxNLocator(nbins=7, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    axes.set_ylim(low, high)
    axes.yaxis.set_major_locator(ticker.FixedLocator([tick for tick in ticks if low <= tick <= high]))
    axes.yaxis.set_major_formatter(ticker.FormatStrFormatter("%.4g"))
    axes.yaxis.set_minor_locator(ticker.NullLocator())


def _plot_curves(axes: Axes, fitted: Fit) -> None:
    law = get_law(fitted.law)
    groups = isoflop.group_budgets(fitted.runs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        minima = isoflop.minima(fitted.runs, fitted.settings.curve)
    colors = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, len(groups)))
    has_lines = fitted.ok and fitted.approach == 3 and law.is_surface_of_n_and_d
    if has_lines:
        axes.plot([], [], "k-", linewidth=1, label="the fitted law")
    axes.plot([], [], "w*", markersize=9, markeredgecolor="black", label="minimum of the runs of a budget")
    for rows, minimum, color in zip(groups, minima, colors, strict=True):
        n = fitted.runs["N"][rows]
        loss = fitted.runs["loss"][rows]
        label = f"{minimum.flops:.2g} FLOP" if len(groups) <= _MAX_LEGEND else None
        axes.plot(n, loss, "o", color=color, markersize=4, label=label)
        if has_lines:
            x = np.geomspace(n.min() / 1.3, n.max() * 1.3, 100)
            table = {
                "N": x,
                "D": minimum.flops / fitted.flops_per_token(x),
                "flops": np.full(100, minimum.flops),
            }
            y = np.exp(predict_log(law, table, fitted.constants()))
            axes.plot(x, y, "-", color=color, linewidth=1)
        if not minimum.edge:
            axes.plot(minimum.N, minimum.loss, "*", color=color, markersize=12, markeredgecolor="black")
    axes.set(xscale="log", yscale="log", xlabel="parameters", ylabel="loss")
    _loss_ticks(axes, *sorted(axes.get_ylim()))
    axes.legend(fontsize=8)


def _plot_optima(axes: Axes, fitted: Fit, flops: float) -> None:
    budgets = np.geomspace(fitted.runs["flops"].min(), flops, 60)
    best = [fitted.optimal(budget) for budget in budgets]
    for i, (name, color) in enumerate((("N*", "tab:blue"), ("D*", "tab:orange"))):
        axes.plot(budgets, [(optimum.N, optimum.D)[i] for optimum in best], color=color, label=name)
        if fitted.draws is not None and len(fitted.draws):
            spread = np.array([fitted.optimal_draws(budget)[i] for budget in budgets])
            low, high = np.quantile(spread, [0.025, 0.975], axis=1)
            axes.fill_between(budgets, low, high, color=color, alpha=0.25)
        for minimum in isoflop.minima(fitted.runs, fitted.settings.curve):
            if not minimum.edge:
                value = (minimum.N, minimum.D)[i]
                axes.plot(minimum.flops, value, "*", color=color, markersize=9, markeredgecolor="black")
    axes.axvline(flops, color="gray", linestyle=":", label="forecast")
    axes.set(xscale="log", yscale="log", xlabel="training FLOP", ylabel="parameters, tokens")
    axes.legend()


def _plot_fitted(axes: Axes, fitted: Fit) -> None:
    """Fitted against measured values of a law that reads more than N and D, and where both are equal."""
    law = get_law(fitted.law)
    measured = fitted.runs[law.target]
    axes.plot(measured, np.exp(predict_log(law, fitted.runs, fitted.constants())), "o", markersize=4)
    ends = [measured.min(), measured.max()]
    axes.plot(ends, ends, "k-", linewidth=0.8, label="equal")
    axes.set(xlabel=f"measured {law.target}", ylabel=f"fitted {law.target}")
    if ends[1] > 10 * ends[0]:
        axes.set(xscale="log", yscale="log")
    axes.legend()


def _plot_surface(axes: Axes, fitted: Fit, flops: float) -> None:
    runs = fitted.runs
    law = get_law(fitted.law)
    best = fitted.optimal(flops)
    n = np.geomspace(runs["N"].min() / 2, max(runs["N"].max(), best.N) * 2, 80)
    c = np.geomspace(runs["flops"].min() / 2, flops * 2, 80)
    n_grid, c_grid = np.meshgrid(n, c)
    d_grid = c_grid / fitted.flops_per_token(n_grid)
    table = {"N": n_grid.ravel(), "D": d_grid.ravel(), "flops": c_grid.ravel()}
    loss = np.exp(predict_log(law, table, fitted.constants())).reshape(n_grid.shape)
    lines = axes.contour(c, n, np.log(loss).T, levels=18, cmap="viridis", linewidths=0.8)
    axes.clabel(lines, fmt=lambda value: f"{np.exp(value):.3g}", fontsize=7)
    axes.plot(c, [fitted.optimal(budget).N for budget in c], color="tab:red", label="efficient frontier")
    axes.plot(runs["flops"], runs["N"], "k.", markersize=4, label="runs")
    axes.plot(flops, best.N, "r*", markersize=13, label="forecast")
    axes.set(xscale="log", yscale="log", xlabel="training FLOP", ylabel="parameters")
    # Contours are densest at the upper left.
    axes.legend(loc="lower right", framealpha=1)


def _plot_residuals(axes: Axes, fitted: Fit, column: str = "") -> None:
    """Residuals against a column of the table, or against compute, with the mean of each tenth of the rows."""
    law = get_law(fitted.law)
    x = fitted.runs[column] if column else np.exp(log_compute(law, fitted.runs))
    residuals = 100 * fitted.residuals
    other = "D" if column == "N" else "N"
    shade = fitted.runs.get(other)
    if shade is None:
        axes.plot(x, residuals, ".", markersize=8)
    else:
        points = axes.scatter(x, residuals, c=np.log10(shade), cmap="viridis", s=18)
        figure = axes.get_figure(root=True)
        if figure is not None:
            figure.colorbar(points, label=f"log10 {other}", ax=axes)
    parts = np.array_split(np.argsort(x, kind="stable"), max(1, min(10, len(x) // 4)))
    centers = [np.exp(np.log(x[part]).mean()) for part in parts]
    axes.plot(centers, [residuals[part].mean() for part in parts], "r-o", markersize=4, label="local mean")
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set(xscale="log", xlabel=column or _compute_name(law), ylabel="measured over fitted, %")
    axes.legend(fontsize=8)


def _compute_name(law: Law) -> str:
    """Unit of log_compute, for the label of an axis."""
    return (
        "training FLOP"
        if "flops" in law.columns or {"N", "D"} <= set(law.columns)
        else " x ".join(law.columns)
    )


def _plot_backtest(axes: Axes, fitted: Fit) -> None:
    table = backtest(fitted).table
    x = [octave.octaves for octave in table]
    errors = [100 * octave.error for octave in table]
    biases = [100 * octave.bias for octave in table]
    axes.bar(x, errors, color="tab:blue", alpha=0.5, label="mean error")
    axes.plot(x, biases, "o-", color="tab:red", label="bias")
    axes.axhline(0, color="black", linewidth=0.8)
    axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    axes.set(xlabel="octaves of compute ahead", ylabel="predicted over measured, %")
    axes.legend()


def _summary(fitted: Fit, flops: float) -> str:
    """Constants with intervals, the forecast, and how far they can be trusted."""
    rows = len(next(iter(fitted.runs.values())))
    settings = fitted.settings
    lines = [
        f"<p>{rows} runs, approach {fitted.approach}, loss {settings.loss}, "
        f"convention {settings.convention}.</p>"
    ]
    if not fitted.ok:
        return "".join(lines) + f"<p class='bad'>{html.escape(fitted.status)}</p>"
    intervals = fitted.ci or {}
    constants = []
    for name, value in (fitted.params or {}).items():
        low, high = intervals.get(name, (float("nan"), float("nan")))
        constants.append((name, f"{value:.5g}", f"{low:.4g}", f"{high:.4g}"))
    lines.append(_html_table(("constant", "value", "2.5%", "97.5%"), constants))
    if fitted.exponents is not None:
        a, b = fitted.exponents
        size = f"N* ~ C<sup>{a:.3f}</sup>{_interval(intervals, 'a')}"
        lines.append(f"<p>{size}, D* ~ C<sup>{b:.3f}</sup>{_interval(intervals, 'b')}</p>")
        lines.append(f"<p>{_forecast(fitted, flops)}</p>")
    surface = fitted.approach == 3
    if surface:
        lines.append(_backtest_table(fitted))
    changes = influence(fitted, 5)
    if changes:
        lines.append("<p>Largest changes of the exponent without one run:</p>")
        lines.append(_html_table(("run", "change"), [(name, f"{change:+.4f}") for name, change in changes]))
    if surface:
        lines.append(_cross_check(fitted))
        lines.append(_quality(fitted))
    return "".join(lines)


def _interval(intervals: Mapping[str, tuple[float, float]], name: str) -> str:
    """Return the interval of a constant in brackets after a space; empty where there is none."""
    if name not in intervals:
        return ""
    low, high = intervals[name]
    return f" ({low:.3f}, {high:.3f})"


def _forecast(fitted: Fit, flops: float) -> str:
    """Best size, tokens and loss of a budget as a sentence."""
    why = fitted.unsettled(flops)
    if why:
        return f"Not identified: {why}."
    best = fitted.optimal(flops)
    text = f"At {flops:.3g} FLOP: N* {best.N:.3g}, D* {best.D:.3g}"
    if fitted.approach == 3:
        columns = {"D_unique": best.D} if get_law(fitted.law).repeated else {}
        guess = predict_loss(fitted, N=best.N, D=best.D, **columns)
        text += f", loss {guess.loss:.4f} ({guess.low:.4f}, {guess.high:.4f}), drift {guess.drift:+.2%}. {guess.note}"
    return text


def _backtest_table(fitted: Fit) -> str:
    """Errors of the forecasts of larger budgets from smaller ones, and the warning of a drift."""
    tested = backtest(fitted)
    text = ""
    if tested.warning:
        text = f"<p class='bad'>{html.escape(tested.warning)}</p>"
    if not tested.folds:
        return text
    rows = [
        (octave.octaves, octave.runs, f"{octave.error:.2%}", f"{octave.bias:+.2%}", f"{octave.coverage:.0%}")
        for octave in tested.table
    ]
    head = ("octaves ahead", "runs", "mean error", "bias", "inside 95%")
    return f"{text}<p>Backtest, {tested.folds} forecasts from smaller budgets:</p>" + _html_table(head, rows)


def _cross_check(fitted: Fit) -> str:
    """The exponent of the iso-FLOP minima of the same runs, and whether its interval meets that of the surface."""
    other = fitted.cross_check
    if other is None:
        return ""
    if other.exponents is None:
        return f"<p>Iso-FLOP minima: {html.escape(other.status)}</p>"
    text = f"Iso-FLOP minima give N* ~ C<sup>{other.exponents[0]:.3f}</sup>"
    if fitted.ci is None or other.ci is None:
        return f"<p>{text}.</p>"
    low, high = other.ci["a"]
    own_low, own_high = fitted.ci["a"]
    text += f" ({low:.3f}, {high:.3f})"
    if max(low, own_low) <= min(high, own_high):
        return f"<p>{text}: the intervals meet.</p>"
    return f"<p class='bad'>{text}: the intervals do not meet.</p>"


def _quality(fitted: Fit) -> str:
    """How the constants were found, and the exponent by every other convention of counting that the table has."""
    settings = fitted.settings
    k, s = fitted.flops_per
    agreeing = f"{fitted.agreeing} of {settings.starts} ended within 1e-4 of the best"
    rows = [
        ("objective", f"{fitted.objective:.10g} (sum of {settings.loss})"),
        ("relative norm of the gradient", f"{fitted.gradient:.2g}"),
        ("starts", agreeing),
        ("bootstrap draws", 0 if fitted.draws is None else len(fitted.draws)),
        ("noise of ln loss around the fit", f"{fitted.noise:.3%}"),
    ]
    if "flops" in fitted.runs:
        rows.append(("training FLOP", f"{k:.4g} N^{s:.4g} D"))
    for name, exponent in by_convention(fitted).items():
        rows.append(
            (f"exponent, counted by {name}", "not identified" if exponent is None else f"{exponent:.4f}")
        )
    return "<p>How it was found:</p>" + _html_table(("", ""), rows)


def _origin(fitted: Fit, command: str) -> str:
    """Date, command, versions and data."""
    now = datetime.datetime.now(datetime.UTC)
    rows = [
        ("date", f"{now:%Y-%m-%d %H:%M} UTC"),
        ("command", command),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions().items())),
        ("sha256 of the table of runs", data_hash(fitted.runs)),
    ]
    return _html_table(("", ""), rows)


def _table_of_runs(fitted: Fit) -> str:
    names = [name for name in _SHOWN if name in fitted.runs]
    rows = []
    for i in range(len(fitted.runs[names[0]])):
        cells = (fitted.runs[name][i] for name in names)
        rows.append([f"{cell:.5g}" if isinstance(cell, float) else str(cell) for cell in cells])
    return _html_table(names, rows)


def _html_table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    top = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    body = ""
    for row in rows:
        body += "<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>"
    return f"<table><tr>{top}</tr>{body}</table>"
