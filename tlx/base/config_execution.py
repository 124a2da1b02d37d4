"""Execution of a config file: what goes wrong in it becomes one message with the file and the line."""

import contextlib
import importlib.util
import inspect
import pathlib
import re
import traceback
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict, FrozenConfigDict

from tlx.base.errors import ConfigError, UserError
from tlx.base.renamed_keys import new_paths_of


def execute(path: pathlib.Path, arg: str, is_packaged: bool) -> ConfigDict:
    """Return what get_config(arg) of a config file returns.

    Args:
        path: the file; it is the user's own, never one that came with a checkpoint.
        arg: argument of get_config.
        is_packaged: whether the file comes with tlx: then any error but a user's is a defect, and passes.

    Returns:
        The config, which the caller may change.

    Raises:
        ConfigError: the file cannot be executed, get_config is missing or takes no argument, or returns
            something else than a config. The message has the file and the line.
    """
    with _errors_located(path, is_packaged):
        module = _module(path)
    get_config = getattr(module, "get_config", None)
    if not callable(get_config):
        raise ConfigError(
            f'{path} has no function get_config; write `def get_config(arg=""):`, which returns the config'
        )
    _check_parameters(path, get_config)
    with _errors_located(path, is_packaged):
        config = get_config(arg)
    if isinstance(config, FrozenConfigDict | Mapping):
        values: Any = config  # a FrozenConfigDict is no Mapping, and is taken too
        config = ConfigDict(values)
    if not isinstance(config, ConfigDict):
        raise ConfigError(
            f"{path}:{_first_line(get_config)}: get_config returned {_described(config)}; it must return a config, "
            "as tlx.run.base_config(OBJECTIVE) makes one (is `return config` missing?)"
        )
    return config


def _module(path: pathlib.Path) -> ModuleType:
    """Execute the file as a module."""
    spec = importlib.util.spec_from_file_location(f"tlx_config_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"config: {path} is not a Python file (its name must end in .py)")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _check_parameters(path: pathlib.Path, get_config: Callable[..., Any]) -> None:
    """Raise ConfigError unless get_config can be called with one text."""
    signature = inspect.signature(get_config)
    try:
        signature.bind("")
    except TypeError:
        raise ConfigError(
            f"{path}:{_first_line(get_config)}: get_config{signature} must take one argument, the text after "
            f'the colon of --config={path}:arg; write `def get_config(arg=""):`'
        ) from None


@contextlib.contextmanager
def _errors_located(path: pathlib.Path, is_packaged: bool) -> Iterator[None]:
    """Raise ConfigError with the file, the line and its text for any error of a config file."""
    try:
        yield
    except UserError as error:
        location, _ = _location(error, path)
        if not is_packaged and location:
            error.args = (f"{location}: {error}",)
        raise
    except SyntaxError as error:
        text = f": {error.text.strip()}" if error.text else ""
        raise ConfigError(f"{error.filename or path}:{error.lineno}: {error.msg}{text}") from error
    except Exception as error:
        message = _renamed_key(error, path)
        if message is None and is_packaged:
            raise
        raise ConfigError(message or _located(error, path)) from error


def _located(error: Exception, path: pathlib.Path) -> str:
    """Message of any error of a config file."""
    location, line = _location(error, path)
    # str() of a KeyError is the repr of its message.
    message = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    text = f" (line: {line})" if line else ""
    return f"{location or path}: {type(error).__name__}: {' '.join(message.split())}{text}"


def _location(error: Exception, path: pathlib.Path) -> tuple[str, str]:
    """Return "file:line" where an error passed last through the file, and the line; ("", "") where it did not."""
    # Python makes the path of a module absolute; the message has the one that was given.
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path.absolute())
    ]
    if not frames:
        return "", ""
    return f"{path}:{frames[-1].lineno}", frames[-1].line or ""


def _first_line(function: Callable[..., Any]) -> int:
    """Return the number of a function's first line; 1 where it is unknown."""
    return getattr(getattr(function, "__code__", None), "co_firstlineno", 1)


def _described(value: Any) -> str:
    return "None" if value is None else f"{value!r:.60} of type {type(value).__name__}"


def _renamed_key(error: Exception, path: pathlib.Path) -> str | None:
    """Message for a config file that uses an old name of a key; None for any other error."""
    if not isinstance(error, AttributeError | KeyError):
        return None
    match = re.search(r"""^[\\"']*(?:Key ")?([a-z_0-9]+)["'\\]*(?:$| does not exist)""", str(error))
    renamings = new_paths_of(match[1]) if match else []
    if not renamings:
        return None
    location, line = _location(error, path)
    # Several groups had a key "decay"; the line may name the group, as in schedule.decay or schedule["decay"].
    in_line = []
    for old, new in renamings:
        if re.search(r"\b" + r"\W+".join(old.split(".")[-2:]) + r"\b", line):
            in_line.append((old, new))
    return f"{location or path}: " + ", ".join(
        f"{old} is now called {new}" for old, new in in_line or renamings
    )
