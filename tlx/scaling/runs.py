"""The table of runs that every verb reads: one row per run (or per checkpoint of a run), plain columns.

Columns: N (parameters), D (training tokens), loss (nats or bits per byte, the same unit in every row); and
where a law needs them flops, D_unique, N_enc, N_dec, N_nonembed, D_F, D_T, batch, lr. The column `run` names
the run that a row belongs to: bootstraps resample runs, not rows. Where the table has a column `status`, rows
whose status is not "done" are dropped with a warning that counts them.
"""

import csv
import json
import os
import pathlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tlx.base.errors import ConfigError, DataError, one_of
from tlx.base.files import read_json

RunTable = dict[str, np.ndarray]

# Other names that a column goes by.
ALIASES = {
    "N": ("N_total", "params", "parameters", "n_params", "Model Size"),
    "D": ("tokens", "D_tokens", "train_tokens"),
    "flops": ("C", "compute", "compute_budget", "budget", "Training FLOP"),
    "loss": ("final_loss", "validation_loss", "val_loss"),
    "run": ("run_id", "name", "id"),
    "N_nonembed": ("N_no_embed", "N_ne"),
    "D_unique": ("unique_tokens", "U"),
}

CONVENTIONS = ("given", "kaplan", "6nd", "chinchilla", "exact")


def load_runs(source: Any, importer: str | None = None, **choose: Any) -> RunTable:
    """Load a table of runs as columns.

    Args:
        source: Path of a .csv, .jsonl or .json file or of a ladder's folder, a list of rows, a mapping of
            columns, or a data frame.
        importer: Name in IMPORTERS, for public tables with column names of their own.
        **choose: Column = value; only rows with this value are kept.

    Returns:
        Columns by name: float64 arrays [rows], or object arrays where a column holds text.

    Raises:
        ConfigError: `importer` is unknown.
        DataError: A file or a column is missing, or no row is usable.
    """
    if importer is not None:
        if importer not in IMPORTERS:
            raise ConfigError(one_of("importer", importer, IMPORTERS))
        return IMPORTERS[importer](_read(source), **choose)
    columns = _columns(_read(source))
    for name, aliases in ALIASES.items():
        alias = next((alias for alias in aliases if alias in columns), None)
        if name not in columns and alias is not None:
            columns[name] = columns[alias]
    columns = _select(columns, choose)
    if "status" in columns:
        done = columns["status"] == "done"
        if not done.all():
            warnings.warn(f"{(~done).sum()} of {len(done)} runs are not done and are left out", stacklevel=2)
        columns = rows_of(columns, done)
    return _finish(columns)


def with_convention(runs: RunTable, convention: str) -> RunTable:
    """Return the table with N and flops as a convention counts them.

    given: as in the table; flops = 6 N D where it has none. 6nd: all parameters, flops = 6 N D. kaplan,
    chinchilla, exact: the columns flops_<convention> (and N_nonembed for kaplan), which ledgers have.

    Raises ConfigError for an unknown convention, DataError where its columns are missing.
    """
    if convention not in CONVENTIONS:
        raise ConfigError(one_of("convention", convention, CONVENTIONS))
    changed = dict(runs)
    if convention == "kaplan":
        _need(runs, "N_nonembed", "the convention kaplan")
        changed["N"] = runs["N_nonembed"]
    if convention == "6nd" or (convention == "given" and "flops" not in runs):
        if {"N", "D"} <= runs.keys():
            changed["flops"] = 6 * changed["N"] * runs["D"]
        else:
            changed.pop("flops", None)
    elif convention == "kaplan" and "flops_kaplan" not in runs:
        changed["flops"] = 6 * changed["N"] * runs["D"]
    elif convention != "given":
        _need(runs, f"flops_{convention}", f"the convention {convention}")
        changed["flops"] = runs[f"flops_{convention}"]
    return changed


def conventions_of(runs: RunTable) -> list[str]:
    """List the conventions, besides "given", that a table has the columns for."""
    names = []
    if {"N", "D"} <= runs.keys():
        names.append("6nd")
    if "N_nonembed" in runs:
        names.append("kaplan")
    return names + [name for name in ("chinchilla", "exact") if f"flops_{name}" in runs]


def require(runs: RunTable, columns: Sequence[str], user: str) -> None:
    """Check that columns exist and hold positive finite numbers.

    Args:
        runs: The table.
        columns: Names of the columns that are needed.
        user: What needs them, for the message ("law 'chinchilla'").

    Raises:
        DataError: A column is missing, or a value of it is not positive and finite.
    """
    for name in columns:
        _need(runs, name, user)
        bad = np.flatnonzero(~(np.isfinite(runs[name]) & (runs[name] > 0)))
        if len(bad):
            raise DataError(f"{name} must be positive and finite; {len(bad)} rows are not, first {bad[0]}")


def rows_of(runs: RunTable, keep: np.ndarray) -> RunTable:
    """Return the rows that a mask or an array of indices selects."""
    return {name: column[keep] for name, column in runs.items()}


def clusters(runs: RunTable, by: str | None) -> np.ndarray:
    """Number the bootstrap's clusters: an index [rows] of the run, or of the value of the column `by`.

    Raises DataError where the table has no column `by`.
    """
    if by is not None and by != "run":
        _need(runs, by, "by")
    column = runs.get(by or "run")
    if column is None:
        return np.arange(len(runs["loss"]))
    return np.unique(column, return_inverse=True)[1]


def _need(runs: RunTable, column: str, user: str) -> None:
    if column not in runs:
        raise DataError(f"{user} needs the column {column!r}; the table has {', '.join(runs)}")


def _read(source: Any) -> Any:
    """Rows or columns of a file; anything but a path is returned as it is."""
    if not isinstance(source, str | os.PathLike):
        return source
    path = pathlib.Path(source)
    if path.is_dir():
        path = path / "ledger.jsonl"
    if not path.is_file():
        raise DataError(f"no table of runs at {path}")
    if path.suffix == ".csv":
        with open(path, newline="", encoding="utf-8") as handle:
            return list(csv.DictReader(handle))
    if path.suffix == ".jsonl":
        with open(path, encoding="utf-8") as handle:
            return [json.loads(line) for line in handle if line.strip()]
    if path.suffix == ".json":
        return read_json(path)
    raise DataError(f"{path}: a table of runs is a .csv, .jsonl or .json file, or a ladder's folder")


def _columns(table: Any) -> RunTable:
    if hasattr(table, "to_dict") and not isinstance(table, Mapping):  # a data frame
        table = table.to_dict("list")
    if isinstance(table, Mapping):
        return {name: _array(list(values)) for name, values in table.items()}
    if not len(table):
        raise DataError("the table of runs has no rows")
    names = dict.fromkeys(name for row in table for name in row)
    return {name: _array([row.get(name) for row in table]) for name in names}


def _array(values: list[Any]) -> np.ndarray:
    """float64 where every value is a number or missing, else objects."""
    try:
        return np.array([np.nan if value in (None, "") else float(value) for value in values])
    except (TypeError, ValueError):
        return np.array([str(value) for value in values], dtype=object)


def _select(columns: RunTable, choose: Mapping[str, Any]) -> RunTable:
    for name, value in choose.items():
        _need(columns, name, "the choice of rows")
        columns = rows_of(columns, columns[name] == value)
    return columns


def _finish(columns: RunTable) -> RunTable:
    """Keep rows with a loss, and derive D from flops where it is missing (D = flops / 6N)."""
    if "loss" in columns:
        columns = rows_of(columns, np.isfinite(columns["loss"].astype(float)))
    if "N" in columns and "flops" in columns and "D" not in columns:
        columns["D"] = columns["flops"] / (6 * columns["N"])
    if columns and not len(next(iter(columns.values()))):
        raise DataError("the table of runs has no row with a loss")
    return columns


def _import_epoch(table: Any, drop: int = 5) -> RunTable:
    """Hoffmann's figure 4, digitised by Besiroglu et al. (2404.10102), without its `drop` highest losses."""
    columns = _finish(_columns(table))
    runs = {
        "N": columns["Model Size"],
        "flops": columns["Training FLOP"],
        "loss": columns["loss"],
    }
    runs["D"] = runs["flops"] / (6 * runs["N"])
    lowest = np.argsort(runs["loss"], kind="stable")[: len(runs["loss"]) - drop]
    return rows_of(runs, np.sort(lowest))


def _import_gadre(table: Any, metric: str = "loss_c4_val", **choose: Any) -> RunTable:
    """Gadre et al. 2024 (2403.08540): flops = 6 N D; the column `metric` is taken as the loss."""
    runs = _select(_columns(table), choose)
    runs["loss"] = runs[metric]
    runs["run"] = runs["name"]
    runs["flops"] = 6 * runs["N"] * runs["D"]
    return runs


def _import_plain(table: Any, **choose: Any) -> RunTable:
    return load_runs(table, **choose)


# Importers of public tables; each table names its source in its description.
IMPORTERS: dict[str, Callable[..., RunTable]] = {
    "chinchilla_epoch": _import_epoch,
    "chinchilla_kyo_takano": _import_plain,
    "cs336": _import_plain,
    "porian": _import_plain,
    "gadre": _import_gadre,
    "llama3": _import_plain,
    "datablations": _import_plain,
}
