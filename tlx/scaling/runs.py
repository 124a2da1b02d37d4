"""The table of runs that every verb reads: one row per run (or per checkpoint of a run), plain columns.

Columns: N (parameters), D (training tokens), loss (nats or bits per byte, the same unit in every row); and
where a law needs them flops, D_unique, N_enc, N_dec, N_nonembed, N_active, G, P_w, P_a, P_kv, P_post, D_F, D_T,
batch, lr. The column `run` names the run that a row belongs to: bootstraps resample runs, not rows. What is left
out is counted in a warning: rows whose status is not "done" (or "finished", as trackers say), rows without a loss,
rows that repeat another.

Numbers may be written as 19596245, 19,596,245, 1.96e7 or 19.6M, with a decimal comma, and in a unit that the
column's name holds, as in "N (millions)".
"""

import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tlx.base.errors import ConfigError, DataError, one_of, shown
from tlx.base.place import BucketPath
from tlx.scaling.cells import UNITS, decimal_mark, number
from tlx.scaling.table_files import read_table

RunTable = dict[str, np.ndarray]

# Other names that a column goes by; case, spaces and slashes do not count.
ALIASES = {
    "N": (
        "N_total",
        "params",
        "parameters",
        "n_params",
        "Model Size",
        "parameter_count",
        "num_params",
        "num_parameters",
        "n_parameters",
        "total_params",
    ),
    "D": (
        "tokens",
        "D_tokens",
        "train_tokens",
        "training_tokens",
        "total_tokens",
        "num_tokens",
        "n_tokens",
        "tokens_seen",
        "throughput/total_tokens",
    ),
    "flops": (
        "C",
        "compute",
        "compute_budget",
        "budget",
        "Training FLOP",
        "training_flops",
        "train_flops",
        "total_flops",
        "total_flos",
    ),
    "loss": (
        "final_loss",
        "validation_loss",
        "val_loss",
        "eval_loss",
        "valid_loss",
        "val/loss",
        "eval/loss",
        "validation/loss",
    ),
    "run": ("run_id", "name", "id"),
    "N_nonembed": ("N_no_embed", "N_ne"),
    "batch": ("batch_tokens", "tokens_per_batch", "global_batch_tokens"),
    "lr": ("learning_rate", "peak_lr", "max_lr"),
    "weight_decay": ("wd",),
    "N_active": ("active_params", "active_parameters", "activated_params"),
    "D_unique": ("unique_tokens", "U"),
    "status": ("state",),
}

# Columns whose every cell is a number or missing.
_NUMBERS = (
    "N",
    "D",
    "flops",
    "D_unique",
    "N_enc",
    "N_dec",
    "N_nonembed",
    "N_active",
    "G",
    "P_w",
    "P_a",
    "P_kv",
    "P_post",
    "delta_loss",
    "D_F",
    "D_T",
    "loss",
    "batch",
    "lr",
    "weight_decay",
)

# Words that trackers and schedulers write for a run that has reached its end.
_DONE = frozenset(("done", "finished", "complete", "completed", "success", "succeeded", "ok"))

# A loss of fewer digits than this may be that of two runs: equal rows are then no sign of a copy.
_DIGITS_OF_A_COPY = 5

CONVENTIONS = ("given", "kaplan", "6nd", "chinchilla", "exact")


def load_runs(source: Any, importer: str | None = None, **choose: Any) -> RunTable:
    """Load a table of runs as columns.

    Args:
        source: Path of a .csv, .tsv, .jsonl or .json file or of a ladder's folder, here or in a bucket, a list of
            rows, a mapping of columns, or a data frame.
        importer: Name in IMPORTERS, for public tables with column names of their own.
        **choose: Column = value; only rows with this value are kept.

    Returns:
        Columns by name: float64 arrays [rows], or object arrays where a column holds text.

    Raises:
        ConfigError: `importer` is unknown.
        DataError: A file or a column is missing, a cell is no number, or no row is usable.
    """
    if importer is not None and importer not in IMPORTERS:
        raise ConfigError(one_of("importer", importer, IMPORTERS))
    if not isinstance(source, str | os.PathLike | BucketPath):
        return _load(source, importer, choose)
    table = read_table(source)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            runs = _load(table, importer, choose)
    except DataError as error:
        raise DataError(f"{source}: {error}") from error
    # `compare` reads two tables: every message says of which it speaks.
    for warning in caught:
        if warning.category is UserWarning:
            warnings.warn(f"{source}: {warning.message}", stacklevel=2)
    return runs


def as_table(runs: Any) -> RunTable:
    """Return columns of arrays with float64 numbers (products of int64 overflow), and load anything else.

    Raises DataError where `runs` is no table.
    """
    if not isinstance(runs, dict) or not all(isinstance(column, np.ndarray) for column in runs.values()):
        return load_runs(runs)
    return {name: _floats(column) for name, column in runs.items()}


def with_convention(runs: RunTable, convention: str) -> RunTable:
    """Return the table with N and flops as a convention counts them.

    given: as in the table; flops = 6 N D where it has none. 6nd: all parameters, flops = 6 N D, where N is the active
    parameters of a table that has the column N_active. kaplan,
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
        size = "N_active" if "N_active" in runs else "N"
        if {size, "D"} <= runs.keys():
            changed["flops"] = 6 * changed[size] * runs["D"]
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
        DataError: A column is missing or holds text, or a value of it is not positive and finite.
    """
    for name in columns:
        _need(runs, name, user)
        if runs[name].dtype == object:
            raise DataError(f"{user} needs numbers in the column {name!r}; it holds {runs[name][0]!r}")
        bad = np.flatnonzero(~(np.isfinite(runs[name]) & (runs[name] > 0)))
        if len(bad):
            rows = "1 row is" if len(bad) == 1 else f"{len(bad)} rows are"
            raise DataError(
                f"{name} must be positive and finite; {rows} not, the first is {describe_row(runs, int(bad[0]))}: "
                "correct it, or take the row out"
            )


def describe_row(runs: RunTable, row: int) -> str:
    """Return a row for a message: its index, its run's name, and the columns that laws read most."""
    values = []
    for name in ("N", "D", "flops", "loss"):
        if name in runs:
            value = runs[name][row]
            values.append(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}")
    name = f" {runs['run'][row]}" if "run" in runs else ""
    return f"row {row + 1}{name} ({', '.join(values)})"


def rows_of(runs: RunTable, keep: np.ndarray) -> RunTable:
    """Return the rows that a mask or an array of indices selects."""
    return {name: column[keep] for name, column in runs.items()}


def clusters(runs: RunTable, by: str | None) -> np.ndarray:
    """Number the bootstrap's clusters: an index [rows] of the run, or of the value of the column `by`.

    Rows without a value are clusters of their own. Raises DataError where the table has no column `by`.
    """
    if by is not None and by != "run":
        _need(runs, by, "by")
    column = runs.get(by or "run")
    if column is None:
        return np.arange(len(next(iter(runs.values()))))
    blank = np.array([str(value) in ("", "nan") for value in column])
    if blank.any():
        names = [f"row {i}" if blank[i] else f"= {value}" for i, value in enumerate(column)]
        column = np.array(names)
    return np.unique(column, return_inverse=True)[1]


def _need(runs: RunTable, column: str, user: str) -> None:
    if column in runs:
        return
    aliases = f" (or {', '.join(ALIASES[column])})" if column in ALIASES else ""
    raise DataError(f"{user} needs the column {column!r}{aliases}; the table has {', '.join(runs)}")


def _load(table: Any, importer: str | None, choose: Mapping[str, Any]) -> RunTable:
    """Columns of a table that was read, by an importer where there is one."""
    if importer is not None:
        return IMPORTERS[importer](table, **choose)
    columns = _done(_select(_columns(table), choose))
    return _without_copies(_finish(columns))


def _columns(table: Any) -> RunTable:
    """Arrays by name, with the names of ALIASES added; blank columns of numbers are left out."""
    cells = _cells(table)
    candidates = {role: _candidates(role, cells) for role in ALIASES}
    roles = {role: present[0] for role, present in candidates.items() if present}
    # {column: (its role, what its numbers are multiplied by)}
    numeric = {name: (role, _unit(name) or 1.0) for role, name in roles.items() if role in _NUMBERS}
    for name in cells:
        if name not in numeric and (name in _NUMBERS or name.startswith("flops_")):
            numeric[name] = (name, 1.0)
    mark = decimal_mark(cell for name in numeric for cell in cells[name])
    columns: RunTable = {}
    for name, values in cells.items():
        if name in numeric:
            role, factor = numeric[name]
            columns[name] = _numbers(name, values, mark, role not in ("loss", "lr", "weight_decay")) * factor
        else:
            columns[name] = _numbers_or_text(values, mark)
    for role, name in roles.items():
        columns[role] = columns[name]
    _warn_of_others(columns, candidates)
    # Trackers export columns in which no run has a value. One of losses stays, for the message about it.
    losses = {name for name, (role, _) in numeric.items() if role == "loss"} | {"loss"}
    kept = {name: column for name, column in columns.items() if name in losses or not _blank(column)}
    if not kept:
        raise DataError(f"no run of the table has a value in any column: {', '.join(columns)}")
    return kept


def _cells(table: Any) -> dict[str, list[Any]]:
    """Cells by column of a data frame, a mapping of columns or a list of rows."""
    if hasattr(table, "to_dict") and not isinstance(table, Mapping):  # a data frame
        table = table.to_dict("list")
    if isinstance(table, Mapping):
        columns = {str(name): _cells_of(str(name), values) for name, values in table.items()}
        lengths = {name: len(values) for name, values in columns.items()}
        if len(set(lengths.values())) > 1:
            raise DataError(f"the columns of the table have unequal lengths: {lengths}")
        if not sum(lengths.values()):
            raise DataError("the table of runs has no rows")
        return columns
    if isinstance(table, str | bytes) or not isinstance(table, Sequence):
        raise DataError(
            f"a table of runs is a list of rows or a mapping of columns, not {type(table).__name__}"
        )
    if not len(table):
        raise DataError("the table of runs has no rows")
    for i, row in enumerate(table, 1):
        if not isinstance(row, Mapping):
            raise DataError(
                f"row {i} of the table of runs is {shown(row)}, not a mapping from names to values"
            )
    names = dict.fromkeys(name for row in table for name in row)
    if not names:
        raise DataError("the table of runs has no columns")
    return {str(name): [row.get(name) for row in table] for name in names}


def _cells_of(name: str, values: Any) -> list[Any]:
    if isinstance(values, Mapping):  # pandas writes {"N": {"0": 1e6, "1": 2e6}}
        values = values.values()
    if isinstance(values, str) or not hasattr(values, "__iter__"):
        raise DataError(f"the column {name!r} of the table is {shown(values)}, not a list of values")
    return list(values)


def _candidates(role: str, names: Mapping[str, Any]) -> list[str]:
    """Columns that may have a role, the first of which has it; one of exactly its name comes first."""
    plain: dict[str, str] = {}
    for name in names:
        plain.setdefault(_plain_name(name), name)
    known = (role, *ALIASES[role])
    candidates = (name if name in names else plain.get(_plain_name(name)) for name in known)
    present = list(dict.fromkeys(name for name in candidates if name is not None))
    if role not in _NUMBERS:
        return present
    # "budget" and "C" may also be columns of words.
    return [name for name in present if name == role or _holds_a_number(names[name])]


def _warn_of_others(columns: RunTable, candidates: Mapping[str, Sequence[str]]) -> None:
    """Warn where two columns may have one role and differ by more than two counts of one thing do."""
    for role, present in candidates.items():
        if role not in _NUMBERS:
            continue
        for name in present[1:]:
            if columns[name].dtype == object:
                continue
            both = np.isfinite(columns[role] * columns[name]) & (columns[role] > 0) & (columns[name] > 0)
            ratio = np.abs(np.log(columns[role][both] / columns[name][both]))
            if len(ratio) and np.median(ratio) > np.log(2):
                warnings.warn(
                    f"{role} is read from the column {present[0]!r}, not from {name!r}", stacklevel=2
                )


def _holds_a_number(cells: Sequence[Any]) -> bool:
    values = (number(cell, mark, units=True) for mark in ".," for cell in cells)
    return any(value is not None and np.isfinite(value) for value in values)


def _plain_name(name: str) -> str:
    """A name without case, spaces, slashes and unit. One letter keeps its case: n and d may be anything."""
    if _unit(name) is not None:
        name = re.sub(r"\s*[(\[][^)\]]*[)\]]$", "", name)
    name = name.strip()
    return name if len(name) == 1 else re.sub(r"[\s/.-]+", "_", name.lower())


def _unit(name: str) -> float | None:
    """Factor of the unit in a column's name, as in "N (millions)" and "flops (1e18)"; None without one."""
    match = re.search(r"[(\[]([^)\]]*)[)\]]$", name.strip())
    text = match[1].strip().lower() if match else ""
    return float(text) if re.fullmatch(r"1e\d\d?", text) else UNITS.get(text)


def _numbers(name: str, values: Sequence[Any], mark: str, units: bool) -> np.ndarray:
    """float64 of a column that must hold numbers. Raises DataError for the first cell that holds none."""
    numbers = []
    for i, cell in enumerate(values, 1):
        value = number(cell, mark, units=True)
        # A unit in a loss or a learning rate ("3.7B") is a mistake, whatever is meant.
        if value is None or (not units and isinstance(cell, str) and _has_unit(cell, mark, value)):
            decimal = "" if mark == "." else " (the table has decimal commas)"
            raise DataError(f"row {i}: {name} = {shown(cell)} is not a number{decimal}")
        numbers.append(value)
    return np.array(numbers, float)


def _has_unit(cell: str, mark: str, value: float) -> bool:
    return np.isfinite(value) and number(cell, mark) is None


def _numbers_or_text(values: Sequence[Any], mark: str) -> np.ndarray:
    """float64 where every value is a number or missing, else objects."""
    numbers = [number(cell, mark) for cell in values]
    if None in numbers:
        return np.array(["" if value is None else str(value) for value in values], dtype=object)
    return np.array(numbers, float)


def _floats(column: np.ndarray) -> np.ndarray:
    """The same column as float64 where it holds numbers."""
    if column.ndim != 1:
        raise DataError(f"a column of the table has the shape {column.shape}; it must have one dimension")
    return column.astype(float) if column.dtype.kind in "iufb" else column.astype(object)


def _blank(column: np.ndarray) -> bool:
    return column.dtype != object and bool(np.isnan(column).all())


def _select(columns: RunTable, choose: Mapping[str, Any]) -> RunTable:
    """Rows in which each column has its value. Raises DataError where none has it."""
    for name, value in choose.items():
        _need(columns, name, "the choice of rows")
        column = columns[name]
        if column.dtype == object:
            chosen = column == str(value)
        else:
            wanted = number(value, units=True)
            chosen = column == (np.nan if wanted is None else wanted)
        if not chosen.any():
            present = ", ".join(str(item) for item in list(dict.fromkeys(column.tolist()))[:10])
            raise DataError(f"no row has {name} = {value!r}; the column holds {present}")
        columns = rows_of(columns, chosen)
    return columns


def _done(columns: RunTable) -> RunTable:
    """Rows of runs that have ended well; all of them where the table does not say."""
    if "status" not in columns or _blank(columns["status"]):
        return columns
    words = np.array([str(value).strip().lower() for value in columns["status"]], object)
    done = np.isin(words, list(_DONE))
    if done.all():
        return columns
    others = [f"{word or 'blank'} {(words == word).sum()}" for word in dict.fromkeys(words[~done])]
    why = f"({', '.join(others)})"
    if not done.any():
        legal = ", ".join(sorted(_DONE))
        raise DataError(
            f"no run is done: the column status holds {why}; a run counts where it is one of {legal}"
        )
    warnings.warn(f"{(~done).sum()} of {len(done)} runs are not done {why} and are left out", stacklevel=2)
    return rows_of(columns, done)


def _finish(columns: RunTable) -> RunTable:
    """Keep rows with a loss, and derive D from flops where it is missing (D = flops / 6N)."""
    if "loss" in columns:
        finite = np.isfinite(columns["loss"])
        if not finite.any():
            raise DataError("the table of runs has no row with a loss")
        if not finite.all():
            first = describe_row(columns, int(np.flatnonzero(~finite)[0]))
            counts = f"{(~finite).sum()} of {len(finite)} rows have no finite loss"
            warnings.warn(f"{counts} and are left out; the first is {first}", stacklevel=2)
        columns = rows_of(columns, finite)
    if "N" in columns and "flops" in columns and "D" not in columns:
        columns["D"] = columns["flops"] / (6 * columns["N"])
    return columns


def _without_copies(columns: RunTable) -> RunTable:
    """Leave out rows that are equal to an earlier one in every column: they would narrow every interval."""
    if "loss" not in columns:
        return columns
    # Hashes instead of the rows' texts, which would be many times the table.
    seen: set[int] = set()
    keep = []
    for row in zip(*columns.values(), strict=True):
        key = hash(tuple(map(str, row)))
        keep.append(key not in seen)
        seen.add(key)
    copies = ~np.array(keep)
    if not copies.any():
        return columns
    count = f"{copies.sum()} of {len(copies)} rows are equal to another one in every column"
    digits = [len(f"{loss:.12g}".replace(".", "").strip("0")) for loss in columns["loss"][copies]]
    if max(digits) < _DIGITS_OF_A_COPY:
        warnings.warn(f"{count}; losses have few digits, so they count as other seeds of a run", stacklevel=2)
        return columns
    warnings.warn(f"{count} and are left out", stacklevel=2)
    return rows_of(columns, ~copies)


def _import_epoch(table: Any, drop: Any = 5, **choose: Any) -> RunTable:
    """Hoffmann's figure 4, digitised by Besiroglu et al. (2404.10102), without its `drop` highest losses."""
    columns = _select(_columns(table), choose)
    for name in ("Model Size", "Training FLOP", "loss"):
        _need(columns, name, "the importer chinchilla_epoch")
    columns = _finish(columns)
    runs = {
        "N": columns["Model Size"],
        "flops": columns["Training FLOP"],
        "loss": columns["loss"],
    }
    runs["D"] = runs["flops"] / (6 * runs["N"])
    count = number(drop)
    if count is None or not 0 <= count < len(runs["loss"]):
        raise ConfigError(f"drop = {drop!r} must be a number of rows, below {len(runs['loss'])}")
    lowest = np.argsort(runs["loss"], kind="stable")[: len(runs["loss"]) - int(count)]
    return rows_of(runs, np.sort(lowest))


def _import_gadre(table: Any, metric: str = "loss_c4_val", **choose: Any) -> RunTable:
    """Gadre et al. 2024 (2403.08540): flops = 6 N D; the column `metric` is taken as the loss."""
    runs = _select(_columns(table), choose)
    for name in ("N", "D", "name", metric):
        _need(runs, name, "the importer gadre")
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
