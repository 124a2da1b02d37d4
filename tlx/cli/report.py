"""What runs have come to, side by side: a table with intervals over seeds, and a picture.

    tlx report runs/reviews-*                              scores, runs that differ in their seed together
    tlx report runs/reviews-* --by=data.records.limit,base.path --plot=gain.png
    tlx report runs/clm runs/mlm --score=loss              what `tlx train` evaluated at its end

Each PATH is a run's directory, or a folder of such (that of --seeds=5 too). A row is a group of runs with the
same values of --by, which are by default all values of the configs that differ; the interval is Student's, of
95% over the runs of a group. The picture has the first value of --by along its bottom, a line for each
combination of the others. Runs without a score yet are named, and left out.
"""

import itertools
import json
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from tlx.base.config import flatten
from tlx.base.errors import DataError, one_of
from tlx.base.files import read_json
from tlx.cli import flags
from tlx.metrics.resampling import Interval, of_runs
from tlx.training.directory import FILE, read_run

# What is no choice between runs: where they are kept, what follows from the choices, how they are watched.
_NO_CHOICE = ("name", "seed", "base.hash", "tokenizer.path", "train.steps")
_NO_PARTS = ("log.", "checkpoint.", "eval.")


class Outcome(NamedTuple):
    """A run's config, flat, and the figures of a split."""

    folder: pathlib.Path
    config: dict[str, Any]
    figures: dict[str, Any]


class ReportRow(NamedTuple):
    """Runs with the same values of what is compared."""

    values: tuple[Any, ...]
    score: Interval
    scores: list[float]


def main(argv: list[str]) -> int:
    """`tlx report`: a table, or JSON."""
    parser = flags.parser("report", __doc__)
    parser.add_argument("paths", nargs="+", metavar="PATH", help="run directories, or folders of them")
    parser.add_argument("--by", metavar="KEY,KEY", help="values of the config that tell groups apart")
    parser.add_argument("--split", help="default: test where all runs have it, else validation")
    parser.add_argument("--score", help="the one that counts most by default")
    parser.add_argument("--plot", metavar="FILE", help="draw it too (.png, .svg, .pdf)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = flags.parse(parser, argv)
    found = outcomes(options.paths, options.split)
    keys = _keys(found, options.by)
    score = options.score or found[0].figures.get("main", "loss")
    rows = grouped(found, keys, score)
    if options.plot:
        draw(options.plot, rows, keys, score)
    if options.json:
        named = [dict(zip(keys, row.values, strict=True)) | _told(row) for row in rows]
        print(json.dumps({"score": score, "rows": named}, indent=2))
    else:
        print(table(rows, keys, score))
    return 0


def outcomes(paths: Sequence[str], split: str | None = None) -> list[Outcome]:
    """Of all runs in these folders that have ended. Raises DataError where there is none, and for a split
    that one of them does not have."""
    folders = sorted({folder for path in paths for folder in _runs(pathlib.Path(path))})
    if not folders:
        raise DataError(f"there is no run (no {FILE}) in {', '.join(map(str, paths))}")
    splits = {folder: _splits(folder) for folder in folders}
    for folder in [folder for folder, own in splits.items() if not own]:
        print(f"{folder} has no scores yet, and is left out", file=sys.stderr)
        del splits[folder]
    if not splits:
        raise DataError(f"none of the {len(folders)} runs has scores yet")
    split = split or ("test" if all("test" in own for own in splits.values()) else "validation")
    for folder, own in splits.items():
        if split not in own:
            raise DataError(f"{folder}: " + one_of("--split", split, own))
    return [
        Outcome(folder, flatten(read_run(folder)["config"]), own[split]) for folder, own in splits.items()
    ]


def _runs(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """The run directories at `path` and one level below it."""
    if (path / FILE).exists():
        yield path
    elif path.is_dir():
        yield from (place.parent for place in path.glob(f"*/{FILE}"))


def _splits(folder: pathlib.Path) -> dict[str, dict[str, Any]]:
    """{split: figures}: of a task's run its scores, of another one its last evaluation."""
    if (folder / "scores.json").exists():
        return read_json(folder / "scores.json")
    if not (folder / "metrics.jsonl").exists():
        return {}
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    final = [line for line in lines if line["kind"] == "final"]
    return {"validation": final[-1]} if final else {}


def _keys(found: Sequence[Outcome], by: str | None) -> list[str]:
    """What tells groups apart; ConfigError for what no config has."""
    if by:
        wanted = by.split(",")
        for key in wanted:
            if not all(key in run.config for run in found):
                raise DataError(one_of("--by", key, found[0].config))
        return wanted
    keys = dict.fromkeys(key for run in found for key in run.config)
    chosen = [key for key in keys if key not in _NO_CHOICE and not key.startswith(_NO_PARTS)]
    return [key for key in chosen if len({repr(run.config.get(key)) for run in found}) > 1]


def grouped(found: Sequence[Outcome], keys: Sequence[str], score: str) -> list[ReportRow]:
    """A row for each combination of values. Raises DataError for a score that a run does not have."""
    groups: dict[str, tuple[tuple[Any, ...], list[float]]] = {}
    for run in found:
        figures = {name for name, value in run.figures.items() if isinstance(value, float)}
        if score not in figures:
            raise DataError(f"{run.folder}: " + one_of("--score", score, sorted(figures)))
        values = tuple(run.config.get(key) for key in keys)
        groups.setdefault(repr(values), (values, []))[1].append(run.figures[score])
    rows = [ReportRow(values, of_runs(scores), scores) for values, scores in groups.values()]
    return sorted(rows, key=lambda row: [_order(value) for value in row.values])


def _order(value: Any) -> tuple[bool, float, str]:
    number = isinstance(value, int | float)
    return not number, float(value) if number else 0.0, str(value)


def table(rows: Sequence[ReportRow], keys: Sequence[str], score: str) -> str:
    """Markdown: a row for each group."""
    lines = [[*keys, score, "runs"]]
    for row in rows:
        spread = f" ± {row.score.high - row.score.value:.4f}" if len(row.scores) > 1 else ""
        lines.append([*map(_word, row.values), f"{row.score.value:.4f}{spread}", str(len(row.scores))])
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def draw(path: str, rows: Sequence[ReportRow], keys: Sequence[str], score: str) -> None:
    """The score over the first of `keys`, its interval as bars."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    first, *others = keys or ["run"]
    lines = sorted(rows, key=lambda row: [_order(value) for value in row.values[1:]])
    for values, own in itertools.groupby(lines, key=lambda row: row.values[1:]):
        points = list(own)
        x = [
            row.values[0] if isinstance(row.values[0], int | float) else _word(row.values[0])
            for row in points
        ]
        bars = [row.score.high - row.score.value for row in points]
        label = ", ".join(
            f"{key.rsplit('.', 1)[-1]} {_word(value)}" for key, value in zip(others, values, strict=True)
        )
        axes.errorbar(x, [row.score.value for row in points], bars, fmt="o-", capsize=3, label=label or None)
    numbers = [row.values[0] for row in rows if keys and isinstance(row.values[0], int | float)]
    if numbers and min(numbers) > 0 and max(numbers) > 20 * min(numbers):
        axes.set_xscale("log")
    axes.set_xlabel(first)
    axes.set_ylabel(score)
    if others:
        axes.legend()
    figure.savefig(path, dpi=120)


def _word(value: Any) -> str:
    if value is None or value == "":
        return "none"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _told(row: ReportRow) -> Mapping[str, Any]:
    return {"mean": row.score.value, "interval_95": [row.score.low, row.score.high], "scores": row.scores}
