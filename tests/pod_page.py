"""The tables of configs/pod/README.md, from the figures in configs/pod/figures.jsonl.

    python -m tests.pod_page                      writes the tables
    python -m tests.pod_page --search             searches the mesh of every row again, oldest first, and writes them
    python -m tests.pod_page --search --only=t5_11b --only=v6e

--search takes a Python with the targets' compilers (TLX_TPU_PYTHON, TLX_GPU_PYTHON) and minutes of a core for each
layout. A row is written when its search ends, and each layout that is compiled is kept in the cache folder: the same
command goes on where it was stopped.

tests/plan/test_pod.py fails where the page is older than the figures.
"""

import argparse
import datetime
import hashlib
import json
import pathlib
import sys
from collections.abc import Callable, Iterable
from typing import Any

from tlx.base import files
from tlx.base.config import to_dict
from tlx.base.config_files import load_config, override
from tlx.base.errors import UserError, first_line
from tlx.plan import compilers
from tlx.plan.changes import change
from tlx.plan.compiled import CompiledFacts
from tlx.plan.compilers import TooLarge
from tlx.plan.estimate import estimate
from tlx.plan.footprint import RunConfig
from tlx.plan.measure import measured, too_large
from tlx.plan.result import Plan
from tlx.plan.search import SearchResult, search
from tlx.plan.target import Target, parse_target
from tlx.run.checks import fit_devices, resolve

FOLDER = pathlib.Path(__file__).parents[1] / "configs" / "pod"
FIGURES = FOLDER / "figures.jsonl"
PAGE = FOLDER / "README.md"
BEGIN = "<!-- python -m tests.pod_page writes what follows -->"
END = "<!-- up to here -->"
COLUMNS = (
    "config",
    "target",
    "given",
    "chosen",
    "memory, GB",
    "figure",
    "schedule, ms",
    "step, ms",
    "MFU",
    "tokens/s a chip",
    "run, days",
    "layouts",
    "date",
)


def main(argv: list[str]) -> int:
    """Search the rows that are asked for, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--search", action="store_true", help="search the mesh of every row again")
    parser.add_argument(
        "--only", action="append", default=[], help="rows whose config or target has this in it"
    )
    parser.add_argument(
        "--before", default=datetime.date.today().isoformat(), help="rows older than this date"
    )
    options = parser.parse_args(argv)
    rows = read_rows()
    if options.search:
        cache = files.cache_folder() / "pod_layouts.jsonl"
        for index in due(rows, options.before, options.only):
            try:
                rows[index] = searched(rows[index], cache)
            except UserError as error:
                print(f"{rows[index]['config']} on {rows[index]['target']}: {first_line(error)}", flush=True)
                continue
            write_rows(rows)
            PAGE.write_text(page(PAGE.read_text(), rows))
            print(line_of(rows[index]), flush=True)
    PAGE.write_text(page(PAGE.read_text(), rows))
    return 0


def read_rows() -> list[dict[str, Any]]:
    """Return the rows of the figures' file."""
    return [json.loads(line) for line in FIGURES.read_text().splitlines()]


def write_rows(rows: Iterable[dict[str, Any]]) -> None:
    """Write the figures' file, whole or not at all."""
    with files.atomic_open(FIGURES) as handle:
        handle.writelines(json.dumps(row) + "\n" for row in rows)


def due(rows: list[dict[str, Any]], before: str, only: Iterable[str]) -> list[int]:
    """Return indices of the rows to search, the oldest first.

    Args:
        rows: Rows of the figures' file.
        before: Date; rows from this day on are current.
        only: Words that the config or the target of a row has in it; (): all rows.
    """
    wanted = [
        index
        for index, row in enumerate(rows)
        if row["date"] < before and all(word in f"{row['config']} {row['target']}" for word in only)
    ]
    return sorted(wanted, key=lambda index: rows[index]["date"])


def searched(row: dict[str, Any], cache: pathlib.Path) -> dict[str, Any]:
    """Return a row with the fastest layout of its config that fits its target; a fixed row with its own layout.

    Args:
        row: The row; its config, target and the overrides that it is given are kept.
        cache: File of compiled layouts.

    Returns:
        The row with the figures of today. Raises ConfigError where there is no compiler.
    """
    target = parse_target(row["target"])
    config = config_of(row)
    python = compilers.compiler_python(target)
    if python is None:
        raise UserError(compilers.how_to_install(target))
    compiled = []

    def check(layout: RunConfig) -> Plan:
        plan = cached_plan(
            layout, target, cache, lambda: compilers.compile_for_target(layout, target, python)
        )
        compiled.append(plan)
        return plan

    if row["fixed"]:
        best = SearchResult(change(), check(fit_devices(config, target.num_devices)))
    else:
        best = search(config, target, check)[0]
    return row_of(row, best, len(compiled))


def config_of(row: dict[str, Any]) -> RunConfig:
    """Return the config of a row with the overrides that it is given."""
    config = load_config(str(FOLDER / f"{row['config']}.py"))
    for word in row["given"]:
        override(config, f"--config.{word}")
    return resolve(config, allow=None)


def cached_plan(
    config: RunConfig, target: Target, cache: pathlib.Path, compile_it: Callable[[], CompiledFacts | TooLarge]
) -> Plan:
    """Return the compiler's plan of a layout, from the file of those that were compiled where it is there.

    Args:
        config: The layout.
        target: Hardware.
        cache: File of JSON lines.
        compile_it: Compiles the layout.

    Returns:
        The plan.
    """
    known = [json.loads(line) for line in cache.read_text().splitlines()] if cache.exists() else []
    # What is compiled changes with tlx: a layout of another day is compiled again.
    content = [to_dict(config), target.text, datetime.date.today().isoformat()]
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    values = next((line for line in known if line["key"] == key), None)
    if values is None:
        facts = compile_it()
        kind = "too_large" if isinstance(facts, TooLarge) else "facts"
        values = {"key": key, kind: facts._asdict()}
        with open(cache, "a") as handle:
            handle.write(json.dumps(values) + "\n")
    analytic = estimate(config, target)
    if "too_large" in values:
        return too_large(analytic, TooLarge(**values["too_large"]), target)
    return measured(analytic, CompiledFacts(**values["facts"]), config, target)


def row_of(row: dict[str, Any], best: SearchResult, layouts: int) -> dict[str, Any]:
    """Return a row of the figures' file.

    Args:
        row: Its config, target and given overrides.
        best: The layout and its plan.
        layouts: Number of layouts that were compiled.
    """
    plan = best.plan
    values = plan.to_json()
    is_tpu = row["target"].startswith("tpu")
    return {
        "config": row["config"],
        "target": row["target"],
        "given": row["given"],
        "chosen": [word.removeprefix("--config.") for word in best.change.words],
        "fixed": row["fixed"],
        "memory_gb": round(plan.memory["total"] / 1e9, 2),
        "available_gb": round(plan.memory_available / 1e9, 2),
        "figure": "schedule" if is_tpu else "bound",
        "schedule_ms": round(plan.step_ms_without_kernels),
        "step_ms": round(plan.step_ms),
        "mfu": round(plan.mfu, 3),
        "tokens_per_s_per_chip": round(values["tokens_per_s_per_chip"]),
        "days": round(plan.days, 1),
        "layouts": layouts,
        "date": datetime.date.today().isoformat(),
    }


def page(text: str, rows: Iterable[dict[str, Any]]) -> str:
    """Return the page with the rows between its two marks."""
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    lines = [_line(COLUMNS), _line(["---"] * len(COLUMNS)).replace(" ", ""), *map(line_of, rows)]
    return "\n".join([before + BEGIN, "", *lines, "", END + after])


def line_of(row: dict[str, Any]) -> str:
    """Return a row as a line of the table."""

    def words(values: list[str]) -> str:
        return ", ".join(f"`{value.removeprefix('model.execution.')}`" for value in values)

    fits = row["memory_gb"] <= row["available_gb"]
    formats = {"schedule_ms": ",", "step_ms": ",", "mfu": ".0%", "tokens_per_s_per_chip": ",", "days": ".1f"}
    figures = [
        "" if row[name] is None or not fits else f"{row[name]:{shown}}" for name, shown in formats.items()
    ]
    cells = [
        f"`{row['config']}`",
        f"`{row['target']}`",
        words(row["given"]),
        words(row["chosen"]),
        f"{row['memory_gb']:.4g} of {row['available_gb']:.4g}" + ("" if fits else ": no"),
        row["figure"],
        *figures,
        str(row["layouts"]),
        row["date"],
    ]
    return _line(cells)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
