"""run.json of a run directory: what made the run, and what a later start of it may change."""

import importlib.metadata
import json
import platform
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tlx import __version__
from tlx.base.config import flatten
from tlx.base.errors import ConfigError, DataError, shown
from tlx.base.files import write_json
from tlx.base.place import Place
from tlx.base.renamed_keys import new_path, upgrade
from tlx.base.saved_defaults import AddedKey, adopt, fill

FILE = "run.json"
# 2: keys of the config have other names (tlx/base/renamed_keys.py).
FORMAT = 2

# Keys, and beginnings of keys, that may change from one start to the next: how a run is watched, saved and
# computed, not what it is. Of data.tokens, the fingerprint of the tokens is compared.
_FREE = (
    "name",
    "log.",
    "eval.",
    "checkpoint.",
    "mesh.",
    "model.execution.",
    "base.path",
    "data.workers",
    "data.tokens",
    "data.cache_gigabytes",
    "train.microbatches",
    "train.rows_per_device",
    "train.max_skipped",
    "train.max_rollbacks",
    "train.stall_seconds",
    "train.compare_every",
    "train.profile_steps",
)


# Types of the keys of run.json that its readers count on.
_KINDS: dict[str, type] = {"config": dict, "tokenizer_hash": str, "data": dict, "mesh": dict}
_DESCRIPTIONS: dict[type, str] = {dict: "an object", str: "a text"}


class ConfigChange(NamedTuple):
    """A value of the config that differs from the one that the run was started with."""

    key: str
    """Dotted key of the config."""
    old: Any
    """Value that the run was started with; None where there was none."""
    new: Any
    """Value in the current config."""
    allowed: bool
    """Whether the run may be resumed with it."""


def find_run_folder(path: Place) -> Place | None:
    """Return the run directory that `path` is, or is a checkpoint of; None where it is neither."""
    for folder in (path, path.parent, path.parent.parent):
        if (folder / FILE).is_file():
            return folder
    return None


def read_run(workdir: Place) -> dict[str, Any] | None:
    """Return run.json, its config in today's keys whatever its format; None where no run was started.

    Keys that were added since the run was saved have the values that it was trained with. Raises DataError
    for a newer format or a broken file.
    """
    run = _upgraded(workdir)
    return None if run is None else run | {"config": fill(run["config"])}


def resumed_config(workdir: Place, config: Mapping[str, Any]) -> tuple[dict[str, Any], list[AddedKey]]:
    """Return the config with which a run goes on, where its saved config lacks keys of today.

    Labels that the run took from its training records are kept too, where the config names none, and the form of its
    rows, where the config says that of the base model.

    Args:
        workdir: Run directory; a run need not have begun there.
        config: Config that the run is started with now, as nested dicts.

    Returns:
        The config, and the keys whose values are not as given but as the run began.

    Raises:
        DataError: run.json is of a newer format or broken.
    """
    run = _upgraded(workdir)
    if run is None:
        return dict(config), []
    saved = run["config"]
    adopted, changed = adopt(config, saved)
    objective = adopted.get("objective") or {}
    before = saved.get("objective") or {}
    if objective.get("name") != before.get("name"):
        return adopted, changed
    kept = {}
    if before.get("labels") and not objective.get("labels"):
        kept["labels"] = tuple(before["labels"])
    # The default of runs that began before they kept the frame of their base model.
    if objective.get("frame") == "model" and "frame" in before:
        kept["frame"] = before["frame"]
    if kept:
        adopted["objective"] = {**objective, **kept}
    return adopted, changed


def _upgraded(workdir: Place) -> dict[str, Any] | None:
    """run.json with the keys that it was saved with, under their names of today."""
    path = workdir / FILE
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    try:
        return parse(data)
    except DataError as error:
        raise DataError(f"{path} {error}") from error


def parse(data: bytes) -> dict[str, Any]:
    """Return what the bytes of a run.json hold, its config in today's keys.

    Raises DataError, whose message goes on after the file's name, for a newer format and a broken file.
    """
    try:
        run = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(f"is no JSON: {error}") from error
    saved = run.get("format") if isinstance(run, dict) else None
    # A newer format may have renamed or added keys: dropping those silently would resume another run.
    if type(saved) is not int or saved not in range(1, FORMAT + 1):
        raise DataError(f"has format {shown(saved)}; this version of tlx reads formats 1 to {FORMAT}")
    for name, kind in _KINDS.items():
        if not isinstance(run.get(name), kind):
            raise DataError(f"has {name} = {shown(run.get(name))}, which must be {_DESCRIPTIONS[kind]}")
    if not isinstance(run.get("id"), str | None):
        raise DataError(f"has id = {shown(run['id'])}, which must be a text")
    starts = run.get("starts", [])
    if not isinstance(starts, list) or not all(isinstance(start, str) for start in starts):
        raise DataError(f"has starts = {shown(starts)}, which must be a list of texts")
    for group in ("model", "tokenizer", "data", "objective"):
        value = run["config"].get(group, {})
        if not isinstance(value, dict):
            raise DataError(f"has config.{group} = {shown(value)}, which must be an object")
    try:
        # Once filled here, so that a config that cannot be is found where the file is read.
        config = upgrade(run["config"], saved)
        fill(config)
    except (TypeError, AttributeError, KeyError, ValueError, RecursionError) as error:
        raise DataError(f"has a config that cannot be read: {type(error).__name__}: {error}") from error
    return run | {"format": FORMAT, "config": config}


def write_run(
    workdir: Place,
    config: Mapping[str, Any],
    tokenizer_hash: str,
    data: Mapping[str, Any],
    mesh: Mapping[str, int],
    num_params: int,
    run_id: str | None = None,
    starts: Sequence[str] = (),
) -> None:
    """Write run.json, which `tlx.load` and the next start read; keeps the time of the run's first start.

    Args:
        workdir: run directory, which exists.
        config: the run's config as nested dicts.
        tokenizer_hash: of the tokenizer in workdir/tokenizer.
        data: fingerprint and size of the run's data.
        mesh: devices by mesh axis.
        num_params: number of scalars in all parameters, frozen ones included.
        run_id: id of the run, which its checkpoints have too; None: that of an earlier start; an
            imported or merged model has none.
        starts: ids of the starts of the run in this directory, in order.
    """
    old = read_run(workdir) or {}
    write_json(
        workdir / FILE,
        {
            "format": FORMAT,
            "id": run_id or old.get("id"),
            "starts": list(starts) or old.get("starts", []),
            # A resumed run was created when it was first started.
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
    """Return the versions of Python, of tlx and of the packages that it computes with."""
    names = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "sentencepiece")
    base = {"python": platform.python_version(), "tlx": __version__}
    return base | {name: importlib.metadata.version(name) for name in names}


def changes(old: Mapping[str, Any], new: Mapping[str, Any], allow: Sequence[str] = ()) -> list[ConfigChange]:
    """Return the differences between two dicts of settings, nested ones by their dotted keys.

    More steps are always allowed; fewer are not, for the run may be past them.

    Args:
        old: settings that the run was started with.
        new: settings now.
        allow: keys that may change, or groups of them ("optimizer").

    Raises:
        ConfigError: `allow` has the old name of a key.
    """
    for name in allow:
        # An old name would match no key: it would allow nothing, without a word.
        renamed = new_path(name)
        if renamed is not None:
            raise ConfigError(f"--allow-change={name} is now called --allow-change={renamed}")
    old = flatten(old)
    new = flatten(new)
    differences = []
    for key in [*old, *(key for key in new if key not in old)]:
        before = old.get(key)
        after = new.get(key)
        if before == after:
            continue
        longer = key == "train.steps" and after is not None and before is not None and after > before
        named = any(key == name or key.startswith(name + ".") for name in allow)
        differences.append(ConfigChange(key, before, after, longer or named or key.startswith(_FREE)))
    return differences


def check_changes(differences: Sequence[ConfigChange], workdir: Place) -> None:
    """Raise ConfigError with a table of all changes where some are not allowed."""
    refused = [change.key for change in differences if not change.allowed]
    if refused:
        flags = " ".join(f"--allow-change={key}" for key in refused)
        raise ConfigError(
            f"the run in {workdir} was started with another configuration:\n{table(differences)}\n"
            f"choose another --workdir for a new run, or resume this one with {flags}{_meaning(refused)}"
        )


def _meaning(keys: Sequence[str]) -> str:
    """Return what a change of these keys in the middle of a run does, where it is no other run's result."""
    if not any(key.startswith(("optimizer.learning_rate", "optimizer.schedule")) for key in keys):
        return ""
    return " (the learning rate is then that of the new schedule at the step reached; all else goes on as it was)"


def table(differences: Sequence[ConfigChange]) -> str:
    """Return "  key   was   now" in aligned columns, one change a line."""
    rows = [("key", "was", "now", "")]
    for change in differences:
        verdict = "" if change.allowed else "refused"
        rows.append((change.key, repr(change.old), repr(change.new), verdict))
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, [*widths, 0], strict=True)]
        lines.append("  " + "  ".join(cells).rstrip())
    return "\n".join(lines)
