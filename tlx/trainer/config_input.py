"""The config of a run as callers give it, and the run's directory."""

import copy
import logging
import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from tlx.base import place as places
from tlx.base.config_files import load_config, run_name, set_value
from tlx.base.errors import ConfigError
from tlx.base.place import BucketPath, Place
from tlx.run import RunConfig
from tlx.run.config import config_dict
from tlx.training import directory

_log = logging.getLogger("tlx")

# A config, nested mappings, a path ("configs/mine.py:arg") or a packaged name ("quickstart:mlm:tiny").
ConfigLike = ConfigDict | RunConfig | Mapping[str, Any] | str | os.PathLike


class NamedConfig(NamedTuple):
    """A config as its file has it, and what a run of it is called."""

    config: ConfigDict
    """Not checked yet; a task's model may have values of None."""
    name: str
    """config.name, or else as the config's file is called; empty where neither is known."""


def read_config(config: ConfigLike, overrides: Mapping[str, Any] | None = None) -> NamedConfig:
    """Return the config with overrides applied; what was given is not changed.

    Args:
        config: a ConfigDict, a RunConfig, nested mappings, a path, or a name of a packaged config.
        overrides: values by dotted key, {"train.steps": 40}.

    Returns:
        The config, and the name of its run.

    Raises:
        ConfigError: there is no such file, or no such key (with the nearest).
    """
    name = ""
    values: Any
    if isinstance(config, str | os.PathLike):
        file = os.fspath(config)
        values = load_config(file)
        name = run_name(file)
    elif isinstance(config, ConfigDict):
        values = copy.deepcopy(config)
    elif isinstance(config, RunConfig | Mapping):
        values = config_dict(config)
    else:
        raise ConfigError(
            f"config is a {type(config).__name__}; it may be a ConfigDict, a RunConfig, a path or a name"
        )
    for key, value in (overrides or {}).items():
        set_value(values, key, value)
    return NamedConfig(values, str(values.get("name") or name))


def run_directory(workdir: str | os.PathLike | BucketPath | None, name: str, objective: str = "") -> Place:
    """Return the absolute run directory: `workdir`, or else runs/NAME.

    Args:
        workdir: the directory that the user named; None for runs/NAME.
        name: name of the run.
        objective: name of its objective. A run of it that was begun while configs in folders had names
            without the folder (runs/bert for pretrain/bert) is resumed where it is.

    Returns:
        The directory, which need not exist.

    Raises:
        ConfigError: there is neither a directory nor a name.
    """
    if workdir is not None:
        return places.parse(workdir)
    if not name:
        raise ConfigError("workdir: give the run's directory, for the config has no name")
    folder = pathlib.Path("runs", name).absolute()
    if not folder.exists():
        words = name.split("-")
        for former in ("-".join(words[i:]) for i in range(1, len(words))):
            saved = directory.read_run(folder.parent / former)
            values = {} if saved is None else saved["config"]
            if values.get("name") == former and values["objective"]["name"] == objective:
                return folder.parent / former
    return folder


def as_resumed(values: Mapping[str, Any], workdir: Place) -> dict[str, Any]:
    """Return the config with which the run in `workdir`, if one has begun there, goes on as it began.

    Logs the values that are not as given, because the run was saved before there were their keys.
    """
    config, changed = directory.resumed_config(workdir, values)
    if changed:
        listed = ", ".join(f"{key.path} = {key.value!r}" for key in changed)
        _log.warning("resumed as it was started, before there were these keys: %s", listed)
    return config


def shown_path(workdir: Place) -> str:
    """Return a run directory as commands show it: relative to the current folder where it is inside."""
    folder = pathlib.Path.cwd()
    if isinstance(workdir, BucketPath):
        return str(workdir)
    return str(workdir.relative_to(folder) if workdir.is_relative_to(folder) else workdir)
