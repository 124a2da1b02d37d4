"""report: one self-contained HTML page, and its plots as PNG files beside it."""

import base64
import html
import os
import pathlib
import warnings
from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tlx.scaling import isoflop
from tlx.scaling.fits import Fit, fit, optimal_sizes
from tlx.scaling.laws import get_law, predict_log

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:62em;margin:2em auto;padding:0 1em;color:#222}"
    "table{border-collapse:collapse;font-size:13px}td,th{padding:.15em .7em;text-align:right;"
    "border-bottom:1px solid #ddd}img{max-width:100%}.bad{color:#a00;font-weight:600}"
)

# Columns of the table of runs, as far as a table has them.
_SHOWN = ("run", "N", "D", "flops", "lr", "seed", "loss", "bits_per_byte", "status")


def report(found: Fit, folder: str | os.PathLike, flops: float | None = None) -> pathlib.Path:
    """Writes FOLDER/index.html and its PNGs; returns the page's path.

    flops: the budget of the forecast; 10 times the largest by default. A fit that is not identified gives a
    page that says so, with the runs and no constants.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    flops = flops or 10 * float(found.runs["flops"].max())
    plots: dict[str, Callable[[Axes], Any]] = {
        "Iso-FLOP curves and their minima": lambda a: _curves(a, found)
    }
    if found.ok and found.exponents is not None:
        plots["Best size and tokens against compute"] = lambda a: _optima(a, found, flops)
    if found.ok and found.approach == 3:
        plots["Loss surface and efficient frontier"] = lambda a: _surface(a, found, flops)
        plots["Residuals"] = lambda a: _residuals(a, found)
        if found.backtest().folds:
            plots["Backtest: errors of extrapolations"] = lambda a: _backtest(a, found)
    parts = [_summary(found, flops)]
    with matplotlib.rc_context({"font.size": 10}):
        for i, (title, plot) in enumerate(plots.items()):
            path = folder / f"{i + 1}-{title.split(':')[0].lower().replace(' ', '-')}.png"
            _draw(path, title, plot)
            data = base64.b64encode(path.read_bytes()).decode()
            parts.append(f"<h2>{title}</h2><img alt='{title}' src='data:image/png;base64,{data}'>")
    parts.append("<h2>Runs</h2>" + _table(found))
    page = folder / "index.html"
    title = f"Scaling law: {found.law}"
    page.write_text(
        f"<!doctype html><html><head><meta charset='utf-8'><title>{title}</title><style>{_STYLE}</style>"
        f"</head><body><h1>{title}</h1>{''.join(parts)}</body></html>",
        encoding="utf-8",
    )
    return page


def _draw(path: pathlib.Path, title: str, plot: Callable[[Axes], Any]) -> None:
    figure = Figure(figsize=(8, 4.8), layout="constrained")
    axes = figure.add_subplot()
    plot(axes)
    axes.set_title(title)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def _curves(axes: Axes, found: Fit) -> None:
    groups = isoflop.group_budgets(found.runs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        minima = isoflop.minima(found.runs, found.curve)
    colors = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, len(groups)))
    for rows, minimum, color in zip(groups, minima, colors, strict=True):
        n, loss = found.runs["N"][rows], found.runs["loss"][rows]
        axes.plot(n, loss, "o", color=color, markersize=4, label=f"{minimum.flops:.2g} FLOP")
        if found.ok and found.approach == 3 and set(get_law(found.law).columns) <= {"N", "D", "flops"}:
            x = np.geomspace(n.min() / 1.3, n.max() * 1.3, 100)
            k, s = found.flops_per
            table = {"N": x, "D": minimum.flops / (k * x**s), "flops": np.full(100, minimum.flops)}
            y = np.exp(predict_log(get_law(found.law), table, found.theta))
            axes.plot(x, y, "-", color=color, linewidth=1)
        if not minimum.edge:
            axes.plot(minimum.N, minimum.loss, "*", color=color, markersize=12, markeredgecolor="black")
    axes.set(xscale="log", yscale="log", xlabel="parameters", ylabel="loss")
    if len(groups) <= 14:
        axes.legend(fontsize=8)


def _optima(axes: Axes, found: Fit, flops: float) -> None:
    c = np.geomspace(found.runs["flops"].min(), flops, 60)
    for i, (name, color) in enumerate((("N*", "tab:blue"), ("D*", "tab:orange"))):
        best = [found.optimal(x) for x in c]
        axes.plot(c, [(b.N, b.D)[i] for b in best], color=color, label=name)
        if found.draws is not None and len(found.draws):
            if found.approach == 3:
                spread = [optimal_sizes(get_law(found.law), found.draws, x, found.flops_per)[i] for x in c]
            else:
                spread = [np.exp(found.draws[:, 2 * i] + found.draws[:, 2 * i + 1] * np.log(x)) for x in c]
            low, high = np.quantile(np.array(spread), [0.025, 0.975], axis=1)
            axes.fill_between(c, low, high, color=color, alpha=0.25)
        for m in isoflop.minima(found.runs, found.curve):
            if not m.edge:
                axes.plot(m.flops, (m.N, m.D)[i], "*", color=color, markersize=9, markeredgecolor="black")
    axes.axvline(flops, color="gray", linestyle=":", label="forecast")
    axes.set(xscale="log", yscale="log", xlabel="training FLOP", ylabel="parameters, tokens")
    axes.legend()


def _surface(axes: Axes, found: Fit, flops: float) -> None:
    runs, law = found.runs, get_law(found.law)
    if not set(law.columns) <= {"N", "D", "flops"} or found.exponents is None:
        axes.plot(runs[law.target], np.exp(predict_log(law, runs, found.theta)), "o")
        axes.set(xlabel="measured", ylabel="fitted")
        return
    best = found.optimal(flops)
    n = np.geomspace(runs["N"].min() / 2, max(runs["N"].max(), best.N) * 2, 80)
    c = np.geomspace(runs["flops"].min() / 2, flops * 2, 80)
    k, s = found.flops_per
    nn, cc = np.meshgrid(n, c)
    table = {"N": nn.ravel(), "D": (cc / (k * nn**s)).ravel(), "flops": cc.ravel()}
    loss = np.exp(predict_log(law, table, found.theta)).reshape(nn.shape)
    lines = axes.contour(c, n, np.log(loss).T, levels=18, cmap="viridis", linewidths=0.8)
    axes.clabel(lines, fmt=lambda value: f"{np.exp(value):.3g}", fontsize=7)
    axes.plot(c, [found.optimal(x).N for x in c], color="tab:red", label="efficient frontier")
    axes.plot(runs["flops"], runs["N"], "k.", markersize=4, label="runs")
    axes.plot(flops, best.N, "r*", markersize=13, label="forecast")
    axes.set(xscale="log", yscale="log", xlabel="training FLOP", ylabel="parameters")
    axes.legend(loc="upper left")


def _residuals(axes: Axes, found: Fit) -> None:
    x = found.runs.get("flops", found.runs.get("N"))
    shade = found.runs.get("N", np.ones(len(found.residuals)))
    points = axes.scatter(x, 100 * found.residuals, c=np.log10(shade), cmap="viridis", s=18)
    axes.figure.colorbar(points, label="log10 parameters")
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set(xscale="log", xlabel="training FLOP", ylabel="measured over fitted, %")


def _backtest(axes: Axes, found: Fit) -> None:
    result = found.backtest()
    x = [o.octaves for o in result.table]
    axes.bar(x, [100 * o.error for o in result.table], color="tab:blue", alpha=0.5, label="mean error")
    axes.plot(x, [100 * o.bias for o in result.table], "o-", color="tab:red", label="bias")
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set(xlabel="octaves of compute ahead", ylabel="predicted over measured, %")
    axes.legend()


def _summary(found: Fit, flops: float) -> str:
    lines = [
        f"<p>{len(next(iter(found.runs.values())))} runs, approach {found.approach}, loss {found.loss}, "
        f"convention {found.convention}.</p>"
    ]
    if not found.ok:
        return "".join(lines) + f"<p class='bad'>{html.escape(found.status)}</p>"
    rows = []
    for name, value in found.params.items():
        low, high = (found.ci or {}).get(name, (float("nan"),) * 2)
        rows.append((name, f"{value:.5g}", f"{low:.4g}", f"{high:.4g}"))
    lines.append(_rows(("constant", "value", "2.5%", "97.5%"), rows))
    if found.exponents is not None:
        a, b = found.exponents
        lines.append(f"<p>N* ~ C<sup>{a:.3f}</sup>, D* ~ C<sup>{b:.3f}</sup></p>")
    if found.exponents is not None:
        best = found.optimal(flops)
        text = f"At {flops:.3g} FLOP: N* {best.N:.3g}, D* {best.D:.3g}"
        if found.approach == 3:
            guess = found.predict(
                N=best.N, D=best.D, **({"D_unique": best.D} if found.law == "repeat" else {})
            )
            text += f", loss {guess.loss:.4f} ({guess.low:.4f}, {guess.high:.4f})"
        lines.append(f"<p>{text}</p>")
    if found.approach == 3 and "flops" in found.runs and found.backtest().warning:
        lines.append(f"<p class='bad'>{html.escape(found.backtest().warning)}</p>")
    influence = found.influence(5)
    if influence:
        lines.append("<p>Largest changes of the exponent without one run:</p>")
        lines.append(_rows(("run", "change"), [(name, f"{change:+.4f}") for name, change in influence]))
    if found.approach == 3 and found.law == "chinchilla" and "flops" in found.runs:
        lines.append(_cross_check(found))
    return "".join(lines)


def _cross_check(found: Fit) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other = fit(found.runs, approach=2, boot=0, curve=found.curve)
    if other.exponents is None:
        return f"<p>Iso-FLOP minima: {html.escape(other.status)}</p>"
    return f"<p>Iso-FLOP minima give N* ~ C<sup>{other.exponents[0]:.3f}</sup>.</p>"


def _table(found: Fit) -> str:
    names = [name for name in _SHOWN if name in found.runs]
    rows = []
    for i in range(len(found.runs[names[0]])):
        cells = (found.runs[name][i] for name in names)
        rows.append([f"{c:.5g}" if isinstance(c, float) else str(c) for c in cells])
    return _rows(names, rows)


def _rows(head: Any, rows: Any) -> str:
    top = "".join(f"<th>{html.escape(str(cell))}</th>" for cell in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><tr>{top}</tr>{body}</table>"
