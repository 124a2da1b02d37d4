"""The run directory's run.json: what made the run, and what a later start of it may change."""

import importlib.metadata
import pathlib
import platform
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tlx import __version__
from tlx.base.config import flatten
from tlx.base.errors import ConfigError, DataError
from tlx.base.files import read_json, write_json
from tlx.base.renamed_keys import new_path, upgrade

FILE = "run.json"
FORMAT = 2  # 2: keys of the config have other names (tlx/base/renamed_keys.py)

# What may change from one start to the next: how a run is watched, saved and computed, not what it is.
_FREE = (
    "name",
    "log.",
    "eval.",
    "checkpoint.",
    "mesh.",
    "model.execution.",
    "base.path",
    "data.workers",
    "train.microbatches",
    "train.max_skipped",
    "train.stall_seconds",
    "train.compare_every",
    "train.profile_steps",
)


class ConfigChange(NamedTuple):
    """A value that is not what the run was started with."""

    key: str
    old: Any
    new: Any
    allowed: bool


def read_run(workdir: pathlib.Path) -> dict[str, Any] | None:
    """Reads run.json, its config in the keys of today whatever its format; None where no run was started.

    Raises DataError for a newer format or a broken file.
    """
    path = workdir / FILE
    if not path.exists():
        return None
    try:
        run = read_json(path)
    except ValueError as error:
        raise DataError(f"{path} is no JSON: {error}") from error
    saved = run.get("format")
    if saved not in range(1, FORMAT + 1):
        raise DataError(f"{path} has format {saved!r}; this version of tlx reads formats 1 to {FORMAT}")
    return run | {"format": FORMAT, "config": upgrade(run["config"], saved)}


def write_run(
    workdir: pathlib.Path,
    config: Mapping[str, Any],
    tokenizer_hash: str,
    data: Mapping[str, Any],
    mesh: Mapping[str, int],
    num_params: int,
) -> None:
    """Writes run.json, which `tlx.load` and the next start read. Keeps when the run was first started."""
    old = read_run(workdir) or {}
    write_json(
        workdir / FILE,
        {
            "format": FORMAT,
            "created": old.get("created", time.strftime("%Y-%m-%dT%H:%M:%S%z")),
            "config": config,
            "num_params": num_params,
            "tokenizer_hash": tokenizer_hash,
            "data": data,
            "mesh": mesh,
            "versions": versions(),
        },
    )


def versions() -> dict[str, str]:
    """Versions of Python, of tlx and of what computes for it."""
    names = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "sentencepiece")
    found = {"python": platform.python_version(), "tlx": __version__}
    return found | {name: importlib.metadata.version(name) for name in names}


def changes(old: Mapping[str, Any], new: Mapping[str, Any], allow: Sequence[str] = ()) -> list[ConfigChange]:
    """Differences between two flattened dicts of settings. `allow` names keys, or groups of them.

    More steps are always allowed; fewer are not, for the run may be past them. Raises ConfigError where
    `allow` has the old name of a key.
    """
    for name in allow:
        renamed = new_path(name)
        if renamed is not None:
            raise ConfigError(f"--allow-change={name} is now called --allow-change={renamed}")
    old, new = flatten(old), flatten(new)
    found = []
    for key in [*old, *(key for key in new if key not in old)]:
        before, after = old.get(key), new.get(key)
        if before == after:
            continue
        longer = key == "train.steps" and after > before
        named = any(key == name or key.startswith(name + ".") for name in allow)
        found.append(ConfigChange(key, before, after, longer or named or key.startswith(_FREE)))
    return found


def check_changes(found: Sequence[ConfigChange], workdir: pathlib.Path) -> None:
    """Raises ConfigError with a table of all changes where some are not allowed."""
    refused = [change.key for change in found if not change.allowed]
    if refused:
        flags = " ".join(f"--allow-change={key}" for key in refused)
        raise ConfigError(
            f"the run in {workdir} was started with another configuration:\n{table(found)}\n"
            f"choose another --workdir for a new run, or go on with this one with {flags}"
        )


def table(found: Sequence[ConfigChange]) -> str:
    """ "  key   was   now" in aligned columns, one change a line."""
    rows = [("key", "was", "now", "")]
    rows += [(c.key, repr(c.old), repr(c.new), "" if c.allowed else "refused") for c in found]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, [*widths, 0], strict=True)) for row in rows
    ]
    return "\n".join("  " + line.rstrip() for line in lines)
