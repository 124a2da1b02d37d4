"""The tidy table of runs that every verb reads: one row a run (or a checkpoint of one), plain columns.

Columns: N (parameters), D (training tokens), loss (nats, or bits per byte for all); and where a law needs
them flops, D_unique, N_enc, N_dec, N_nonembed, D_F, D_T, batch, lr. `run` names what a row belongs to:
bootstraps draw runs, not rows. Rows whose `status` is given and is not "done" are left out, with a count.
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
    """Columns as arrays from a path (.csv, .jsonl, .json, a ledger's folder), rows, or columns.

    `importer`: one of IMPORTERS, for public tables with conventions of their own. `choose`: keep the rows
    whose column has this value. Raises DataError naming the column that is missing or the rows that are not
    usable.
    """
    if importer is not None:
        if importer not in IMPORTERS:
            raise ConfigError(one_of("importer", importer, IMPORTERS))
        return IMPORTERS[importer](_read(source), **choose)
    columns = _columns(_read(source))
    for name, others in ALIASES.items():
        found = next((other for other in others if other in columns), None)
        if name not in columns and found is not None:
            columns[name] = columns[found]
    columns = _select(columns, choose)
    if "status" in columns:
        done = columns["status"] == "done"
        if not done.all():
            warnings.warn(f"{(~done).sum()} of {len(done)} runs are not done and are left out", stacklevel=2)
        columns = _rows(columns, done)
    return _finish(columns)


def with_convention(runs: RunTable, convention: str) -> RunTable:
    """The table with N and flops as a convention counts them.

    given: as in the table, flops = 6 N D where it has none. 6nd: all parameters, flops = 6 N D. kaplan,
    chinchilla, exact: the columns flops_<convention> (and N_nonembed for kaplan), which ledgers have.
    """
    if convention not in CONVENTIONS:
        raise ConfigError(one_of("convention", convention, CONVENTIONS))
    changed = dict(runs)
    if convention == "kaplan":
        _need(runs, "N_nonembed", "the convention kaplan")
        changed["N"] = runs["N_nonembed"]
    if convention == "6nd" or (convention == "given" and "flops" not in runs):
        changed["flops"] = 6 * changed["N"] * runs["D"] if {"N", "D"} <= runs.keys() else None
    elif convention == "kaplan" and "flops_kaplan" not in runs:
        changed["flops"] = 6 * changed["N"] * runs["D"]
    elif convention != "given":
        _need(runs, f"flops_{convention}", f"the convention {convention}")
        changed["flops"] = runs[f"flops_{convention}"]
    return {name: column for name, column in changed.items() if column is not None}


def conventions_of(runs: RunTable) -> list[str]:
    """The conventions that a table has the columns for, besides "given"."""
    found = ["6nd"] if {"N", "D"} <= runs.keys() else []
    found += ["kaplan"] if "N_nonembed" in runs else []
    return found + [name for name in ("chinchilla", "exact") if f"flops_{name}" in runs]


def _need(runs: RunTable, column: str, who: str) -> None:
    if column not in runs:
        raise DataError(f"{who} needs the column {column!r}; the table has {', '.join(runs)}")


def require(runs: RunTable, columns: Sequence[str], law: str) -> None:
    """Raises DataError where a law's columns are missing or not positive."""
    for name in columns:
        _need(runs, name, f"law {law!r}")
        bad = np.flatnonzero(~(np.isfinite(runs[name]) & (runs[name] > 0)))
        if len(bad):
            raise DataError(f"{name} must be positive and finite; {len(bad)} rows are not, first {bad[0]}")
    if law in ("chinchilla", "kaplan", "overtrain") and "D_unique" in runs and "D" in columns:
        repeats = runs["D"] > runs["D_unique"] * (1 + 1e-6)
        if repeats.any():
            raise DataError(
                f"{repeats.sum()} runs see their text more than once (D > D_unique), which law {law!r} does "
                "not describe; use law='repeat' or leave them out"
            )


def rows_of(runs: RunTable, keep: np.ndarray) -> RunTable:
    """The rows of a mask or of indices."""
    return _rows(runs, keep)


def clusters(runs: RunTable, by: str | None) -> np.ndarray:
    """Number of the cluster of each row: the run it belongs to, or the values of the column `by`."""
    if by is not None and by != "run":
        _need(runs, by, "by")
    column = runs.get(by or "run")
    return np.arange(len(runs["loss"])) if column is None else np.unique(column, return_inverse=True)[1]


def _read(source: Any) -> Any:
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
    raise DataError(f"{path}: a table of runs is a .csv, .jsonl or .json file, or a ledger's folder")


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
        columns = _rows(columns, columns[name] == value)
    return columns


def _rows(columns: RunTable, keep: np.ndarray) -> RunTable:
    return {name: column[keep] for name, column in columns.items()}


def _finish(columns: RunTable) -> RunTable:
    """Rows with a loss; D_unique may be missing where every run sees its text once."""
    if "loss" in columns:
        columns = _rows(columns, np.isfinite(columns["loss"].astype(float)))
    if "N" in columns and "flops" in columns and "D" not in columns:
        columns["D"] = columns["flops"] / (6 * columns["N"])
    if columns and not len(next(iter(columns.values()))):
        raise DataError("the table of runs has no row with a loss")
    return columns


def _epoch(table: Any, drop: int = 5) -> RunTable:
    """Hoffmann's figure 4 as digitised by Besiroglu et al.; the `drop` highest losses are left out."""
    runs = _finish(_columns(table) | {})
    runs = {"N": runs["Model Size"], "flops": runs["Training FLOP"], "loss": runs["loss"]}
    runs["D"] = runs["flops"] / (6 * runs["N"])
    return _rows(runs, np.sort(np.argsort(runs["loss"], kind="stable")[: len(runs["loss"]) - drop]))


def _gadre(table: Any, metric: str = "loss_c4_val", **choose: Any) -> RunTable:
    """Gadre et al. 2024; flops = 6 N D; `metric` is the column taken for the loss."""
    runs = _select(_columns(table), choose)
    runs["loss"], runs["run"] = runs[metric], runs["name"]
    runs["flops"] = 6 * runs["N"] * runs["D"]
    return runs


def _plain(table: Any, **choose: Any) -> RunTable:
    return load_runs(table, **choose)


# Public tables (each with the source named in its description) to the tidy form.
IMPORTERS: dict[str, Callable[..., RunTable]] = {
    "chinchilla_epoch": _epoch,
    "chinchilla_kyo_takano": _plain,
    "cs336": _plain,
    "porian": _plain,
    "gadre": _gadre,
    "llama3": _plain,
    "datablations": _plain,
}
