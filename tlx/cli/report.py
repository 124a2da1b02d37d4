"""Compare the results of runs: a table with intervals over seeds, and a plot.

    tlx report runs/reviews-*                              scores, runs that differ in their seed together
    tlx report runs/reviews-* --by=data.records.limit,base.path --plot=gain.png
    tlx report runs/clm runs/mlm --score=loss              the last evaluation of `tlx train`
    tlx report runs/clm --goodput --plot=goodput.png       where the time went, over all starts, and why each ended
    tlx report runs/clm --goodput --watts=400 --grid=380   and its energy (kWh) and carbon (kg of CO2 equivalents)
    tlx report --ssa ratings.csv                           sensibleness and specificity of chatbots' answers

Each PATH is a run directory, or a folder of them (such as that of --seeds=5). A row is a group of runs with the
same values of the config keys in --by, by default all keys that differ. The interval is Student's 95% interval
over the runs of a group. The plot has the first key of --by on its x axis, and a line for each combination of
the others. Runs without scores yet are named and left out.

With --ssa, PATH are files of people's ratings (.csv, .tsv, .jsonl, .parquet), a rating a line: "answer" (any name of
the answer), "sensible" and "specific" (0 or 1), and perhaps "model". The majority of an answer's ratings decides; one
that is not sensible is not specific. Intervals are of the bootstrap over answers.
"""

import argparse
import itertools
import json
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from tlx.base import place as places
from tlx.base.config import flatten
from tlx.base.errors import ConfigError, DataError, one_of
from tlx.base.files import read_json, storage_errors
from tlx.base.place import BucketPath, Place
from tlx.cli import flags, report_goodput
from tlx.training.directory import FILE, read_run
from tlx.training.journal import read_lines

if TYPE_CHECKING:
    from tlx.metrics.resampling import Interval

# Keys that do not define a group by default: names, what follows from other keys, and observation only.
_IGNORED_KEYS = ("name", "seed", "base.hash", "tokenizer.path", "train.steps")
_IGNORED_PREFIXES = ("log.", "checkpoint.", "eval.")
# Figures of rated models, in the table's order.
_SSA = ("sensibleness", "specificity", "average")


class Outcome(NamedTuple):
    """The config of a run and its metrics on one split."""

    folder: Place
    """Run directory."""
    config: dict[str, Any]
    """Flat: dotted key -> value."""
    figures: dict[str, Any]
    """Name -> metric; "main" is the name of the primary one."""


class ReportRow(NamedTuple):
    """Runs with the same values of the keys that define groups."""

    values: tuple[Any, ...]
    """Value of each key."""
    score: "Interval"
    """Mean of the scores and its 95% interval."""
    scores: list[float]
    """Score of each run."""


def main(argv: list[str]) -> int:
    """Run `tlx report`: prints a table, or JSON."""
    options = flags.parse(_parser(), argv)
    if options.ssa:
        return _report_ratings(options)
    if (options.watts or options.grid) and not options.goodput:
        raise ConfigError("--watts and --grid are for --goodput")
    for flag in ("watts", "grid"):
        if getattr(options, flag) < 0:
            raise ConfigError(f"--{flag}={getattr(options, flag):g} must be above 0")
    if options.grid and not options.watts:
        raise ConfigError("--grid needs --watts, the power of a device")
    if options.goodput:
        with storage_errors():
            report_goodput.report(_all_run_folders(options.paths), options)
        return 0
    with storage_errors():
        runs = outcomes(options.paths, options.split)
    keys = _grouping_keys(runs, options.by)
    score = options.score or runs[0].figures.get("main", "loss")
    rows = group_rows(runs, keys, score)
    if options.plot:
        draw(options.plot, rows, keys, score)
    if options.json:
        named = [dict(zip(keys, row.values, strict=True)) | _row_to_json(row) for row in rows]
        print(json.dumps({"score": score, "rows": named}, indent=2))
    else:
        print(table(rows, keys, score))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = flags.parser("report", __doc__)
    parser.add_argument("paths", nargs="+", metavar="PATH", help="run directories, or folders of them")
    parser.add_argument(
        "--by", metavar="KEY,KEY", help="config keys that define groups; by default those that differ"
    )
    parser.add_argument("--split", help="split; by default test where all runs have it, else validation")
    parser.add_argument("--score", help="name of a metric; the primary one by default")
    parser.add_argument(
        "--goodput", action="store_true", help="show each run's seconds by kind over all its starts instead"
    )
    parser.add_argument(
        "--watts",
        type=float,
        default=0.0,
        help="goodput: power of a device with its share of the machine, for the energy of all starts "
        "(tlx/base/chips.json has that of chips)",
    )
    parser.add_argument(
        "--grid",
        type=float,
        default=0.0,
        help="goodput: grams of CO2 equivalents of a kilowatt-hour there, for the carbon of that energy",
    )
    parser.add_argument("--plot", metavar="FILE", help="also draw a plot (.png, .svg, .pdf)")
    parser.add_argument("--ssa", action="store_true", help="PATH are ratings of a chatbot's answers")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _report_ratings(options: argparse.Namespace) -> int:
    """Print sensibleness, specificity and their average of each model, with intervals."""
    from tlx.evaluation.ratings import rated_models, read_ratings

    for flag in ("by", "split", "score", "plot", "goodput", "watts", "grid"):
        if getattr(options, flag):
            raise ConfigError(f"--{flag} is for runs, --ssa for ratings")
    rows = rated_models(read_ratings(options.paths))
    if options.json:
        named = [row._asdict() | {name: list(getattr(row, name)) for name in _SSA} for row in rows]
        print(json.dumps({"columns": ["value", "low", "high"], "rows": named}, indent=2))
        return 0
    lines = [["model", *_SSA, "answers", "ratings"], ["---"] * 6]
    for row in rows:
        figures = [getattr(row, name) for name in _SSA]
        cells = [f"{one.value:.3f} ({one.low:.3f} to {one.high:.3f})" for one in figures]
        lines.append([row.model or "all", *cells, str(row.answers), str(row.ratings)])
    print("\n".join("| " + " | ".join(line) + " |" for line in lines))
    return 0


def outcomes(paths: Sequence[str], split: str | None = None) -> list[Outcome]:
    """Read the results of all runs in these folders that have ended.

    Raises DataError where there is none, and for a split that one of them does not have.
    """
    folders = _all_run_folders(paths)
    splits = {}
    for folder in folders:
        run_splits = _read_splits(folder)
        if run_splits:
            splits[folder] = run_splits
        else:
            print(f"{folder} has no scores yet, and is left out", file=sys.stderr)
    if not splits:
        raise DataError(f"none of the {len(folders)} runs has scores yet")
    if not split:
        all_have_test = all("test" in run_splits for run_splits in splits.values())
        split = "test" if all_have_test else "validation"
    for folder, run_splits in splits.items():
        if split not in run_splits:
            raise DataError(f"{folder}: " + one_of("--split", split, run_splits))
    return [
        Outcome(folder, flatten(_read_config(folder)), run_splits[split])
        for folder, run_splits in splits.items()
    ]


def _place(path: str) -> Place:
    return places.parse(path) if places.is_bucket(path) else pathlib.Path(path)


def _all_run_folders(paths: Sequence[str]) -> list[Place]:
    """Return the run directories of all paths; DataError where there is none."""
    folders = sorted({folder for path in paths for folder in _run_folders(_place(path))}, key=str)
    if not folders:
        raise DataError(f"there is no run (no {FILE}) in {', '.join(map(str, paths))}")
    return folders


def _run_folders(path: Place) -> Iterator[Place]:
    """Yield the run directories at `path` and one level below it."""
    if (path / FILE).exists():
        yield path
    elif isinstance(path, BucketPath):
        yield from (folder for folder in path.iterdir() if (folder / FILE).is_file())
    elif path.is_dir():
        yield from (run_file.parent for run_file in path.glob(f"*/{FILE}"))


def _read_config(folder: Place) -> dict[str, Any]:
    run = read_run(folder)
    assert run is not None  # the folder has run.json
    return run["config"]


def _read_splits(folder: Place) -> dict[str, dict[str, Any]]:
    """Return split -> metrics: the scores of a task's run, the last evaluation of another one."""
    if (folder / "scores.json").exists():
        return _read_scores(folder / "scores.json")
    final = [line for line in read_lines(folder / "metrics.jsonl") if line["kind"] == "final"]
    return {"validation": final[-1]} if final else {}


def _read_scores(path: Place) -> dict[str, dict[str, Any]]:
    """Return split -> metrics of a scores.json; DataError where it is none."""
    try:
        scores = read_json(path)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no JSON: {error}") from error
    splits = scores.values() if isinstance(scores, dict) else [scores]
    if not all(isinstance(split, dict) and isinstance(split.get("main", ""), str) for split in splits):
        raise DataError(f"{path} must hold an object of metrics for each split")
    return scores


def _grouping_keys(runs: Sequence[Outcome], by: str | None) -> list[str]:
    """Return the keys of --by, or those whose values differ; DataError for a key that a config lacks."""
    if by:
        keys = by.split(",")
        for key in keys:
            if not all(key in run.config for run in runs):
                raise DataError(one_of("--by", key, runs[0].config))
        return keys
    all_keys = dict.fromkeys(key for run in runs for key in run.config)
    candidates = [
        key for key in all_keys if key not in _IGNORED_KEYS and not key.startswith(_IGNORED_PREFIXES)
    ]
    return [key for key in candidates if len({repr(run.config.get(key)) for run in runs}) > 1]


def group_rows(runs: Sequence[Outcome], keys: Sequence[str], score: str) -> list[ReportRow]:
    """Group runs by their values of `keys`.

    Args:
        runs: Results of runs.
        keys: Dotted config keys.
        score: Name of a metric.

    Returns:
        A row for each combination of values, sorted by them.

    Raises:
        DataError: For a metric that a run does not have.
    """
    from tlx.metrics.resampling import of_runs

    groups: dict[str, tuple[tuple[Any, ...], list[float]]] = {}
    for run in runs:
        metrics = {name for name, value in run.figures.items() if isinstance(value, float)}
        if score not in metrics:
            if not metrics:
                raise DataError(f"{run.folder} has no metric that is a number")
            raise DataError(f"{run.folder}: " + one_of("--score", score, sorted(metrics)))
        values = tuple(run.config.get(key) for key in keys)
        # By repr: a value may be a list.
        groups.setdefault(repr(values), (values, []))[1].append(run.figures[score])
    rows = [ReportRow(values, of_runs(scores), scores) for values, scores in groups.values()]
    return sorted(rows, key=lambda row: [_sort_key(value) for value in row.values])


def _sort_key(value: Any) -> tuple[bool, float, str]:
    """Order numbers by size before everything else by its text."""
    is_number = isinstance(value, int | float)
    return not is_number, float(value) if is_number else 0.0, str(value)


def table(rows: Sequence[ReportRow], keys: Sequence[str], score: str) -> str:
    """Format rows as a Markdown table.

    Args:
        rows: Groups of runs.
        keys: Config keys that define the groups.
        score: Name of the metric.

    Returns:
        The table, a line for each group.
    """
    lines = [[*keys, score, "runs"]]
    for row in rows:
        spread = f" ± {row.score.high - row.score.value:.4f}" if len(row.scores) > 1 else ""
        lines.append([*map(_format, row.values), f"{row.score.value:.4f}{spread}", str(len(row.scores))])
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def draw(path: str, rows: Sequence[ReportRow], keys: Sequence[str], score: str) -> None:
    """Plot the score over the first key, with its interval as error bars.

    Args:
        path: File to write; its ending is the format.
        rows: Groups of runs.
        keys: Config keys that define the groups.
        score: Name of the metric.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    first, *others = keys or ["run"]
    # groupby needs the rows of a line next to each other.
    rows_by_line = sorted(rows, key=lambda row: [_sort_key(value) for value in row.values[1:]])
    for values, line in itertools.groupby(rows_by_line, key=lambda row: row.values[1:]):
        points = list(line)
        x = [_x_value(row.values[0]) if row.values else "all" for row in points]
        bars = [row.score.high - row.score.value for row in points]
        label = ", ".join(
            f"{key.rsplit('.', 1)[-1]} {_format(value)}" for key, value in zip(others, values, strict=True)
        )
        axes.errorbar(x, [row.score.value for row in points], bars, fmt="o-", capsize=3, label=label or None)
    numbers = [row.values[0] for row in rows if keys and isinstance(row.values[0], int | float)]
    if numbers and min(numbers) > 0 and max(numbers) > 20 * min(numbers):
        axes.set_xscale("log")
    axes.set_xlabel(first)
    axes.set_ylabel(score)
    if others:
        axes.legend()
    with places.written_file(places.parse(path)) as target:
        figure.savefig(target, dpi=120)


def _x_value(value: Any) -> Any:
    """Return a number as it is, anything else as the name of a category."""
    return value if isinstance(value, int | float) else _format(value)


def _format(value: Any) -> str:
    if value is None or value == "":
        return "none"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _row_to_json(row: ReportRow) -> dict[str, Any]:
    return {"mean": row.score.value, "interval_95": [row.score.low, row.score.high], "scores": row.scores}
