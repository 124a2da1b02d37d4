"""Config files: located by path or packaged name, executed, and changed by dotted keys."""

import ast
import importlib.util
import pathlib
import re
import traceback
import warnings
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from tlx.base.config import unknown_key
from tlx.base.errors import ConfigError, one_of, shown
from tlx.base.packaged import packaged_folder
from tlx.base.renamed_keys import new_name, new_paths_of


def load_config(name: str) -> ConfigDict:
    """Return the ConfigDict of "path/file.py", "path/file.py:arg" or a packaged name ("quickstart:mlm").

    The file is executed: it is the user's own, never one that came with a checkpoint. Raises ConfigError
    where there is no such file, or it has no function get_config.
    """
    path, arg = _split(name)
    spec = importlib.util.spec_from_file_location(f"tlx_config_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"config: {path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise ConfigError(f"{path} has no function get_config(arg)")
    try:
        return module.get_config(arg)
    except (AttributeError, KeyError) as error:
        renamed = _renamed_key(error, path)
        if renamed is None:
            raise
        raise ConfigError(renamed) from error


def config_file(name: str) -> pathlib.Path | None:
    """Return the file of "path/file.py:arg"; None for a packaged config, which every installation has."""
    path = pathlib.Path(name.partition(":")[0])
    return path.absolute() if path.is_file() else None


def run_name(name: str) -> str:
    """Return "quickstart-mlm-tiny" for "configs/quickstart.py:mlm:tiny": the run's folder under runs/."""
    path, arg = _split(name)
    words = arg.replace("/", "-").replace(",", "-").split(":")
    return "-".join([path.stem, *filter(None, words)])


def override(config: ConfigDict, word: str) -> None:
    """Apply one "--config.a.b=value" to `config`; the key must exist, the value is a Python literal.

    Text stays text where the key holds text ("--config.name=3"). Raises ConfigError with the nearest key.
    """
    key, equals, text = word.removeprefix("--config.").partition("=")
    if not equals:
        raise ConfigError(f"{word} has no value; write {word}=VALUE")
    _check_names(config, key, "--config.")
    set_value(config, key, _literal(text, get_value(config, key)))


def set_value(config: ConfigDict, key: str, value: Any) -> None:
    """Set the existing dotted key ("train.steps") to `value`.

    Args:
        config: Changed in place.
        key: Dotted path of a value; not of a group of values.
        value: Any type; types are checked when the config is converted to RunConfig.

    Raises:
        ConfigError: There is no such key (names the nearest, or the key's new name), or it is a group.
    """
    _check_names(config, key, "")
    get_value(config, key)
    names = key.split(".")
    node: Any = config
    for name in names[:-1]:
        node = node[name]
    try:
        with node.ignore_type():
            node[names[-1]] = value
    except (ValueError, TypeError, AttributeError) as error:
        # ConfigDict takes no mapping whose keys are numbers or have dots.
        raise ConfigError(f"config.{key} = {shown(value)} cannot be stored: {error}") from error


def get_value(config: ConfigDict, key: str) -> Any:
    """Return the value at a dotted key. Raises ConfigError for an unknown key, and for a group of keys."""
    value: Any = config
    path = "config"
    for name in key.split("."):
        value = _member(value, path, name)
        path = f"{path}.{name}"
    if isinstance(value, ConfigDict):
        raise ConfigError(f"{path} is a group; set one of its keys: {', '.join(value)}")
    return value


def packaged_configs() -> pathlib.Path:
    """Return the folder of the configs that come with tlx: of an installed package, or of the checkout."""
    return packaged_folder("configs")


def _split(name: str) -> tuple[pathlib.Path, str]:
    """Split FILE:arg to path and argument; an existing path takes precedence over a packaged name.

    A packaged config may be named by its path in a checkout too ("configs/quickstart.py"), as commands in its
    docstring and in README.md are written.
    """
    file, _, arg = name.partition(":")
    path = pathlib.Path(file)
    if path.is_file():
        return path, arg
    packaged = packaged_configs() / f"{file.removeprefix('configs/').removesuffix('.py')}.py"
    if packaged.is_file():
        return packaged, arg
    names = sorted(str(p.relative_to(packaged_configs()))[:-3] for p in packaged_configs().rglob("*.py"))
    raise ConfigError(f"config: no file {file!r}, and " + one_of("name", file, names))


def _member(node: Any, path: str, name: str) -> Any:
    """Value of the key `name` of a group. Raises ConfigError where there is none."""
    if not isinstance(node, Mapping | ConfigDict):
        raise ConfigError(f"{path} = {node!r} is a value, not a group: it has no key {name!r}")
    if name not in node:
        raise unknown_key(path, name, list(node))
    return node[name]


def _check_names(config: ConfigDict, key: str, prefix: str) -> None:
    """Raise ConfigError with the current dotted key where `key` has an old name in it."""
    node: Any = config
    names: list[str] = []
    for name in key.split("."):
        if not isinstance(node, Mapping | ConfigDict):
            return
        if name not in node:
            name = new_name(".".join(["config", *names]), name, list(node)) or name
        names.append(name)
        node = node.get(name)
    new = ".".join(names)
    if new != key:
        raise ConfigError(f"{prefix}{key} is now called {prefix}{new}")


def _renamed_key(error: Exception, path: pathlib.Path) -> str | None:
    """Message for a config file that uses an old name of a key; None for any other error."""
    match = re.search(r"""^[\\"']*(?:Key ")?([a-z_0-9]+)["'\\]*(?:$| does not exist)""", str(error))
    renamings = new_paths_of(match[1]) if match else []
    if not renamings:
        return None
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    line = ""
    where = str(path)
    if frames:
        line = frames[-1].line or ""
        where = f"{path}:{frames[-1].lineno}"
    # Several groups had a key "decay"; the line may name the group, as in schedule.decay or schedule["decay"].
    in_line = []
    for old, new in renamings:
        if re.search(r"\b" + r"\W+".join(old.split(".")[-2:]) + r"\b", line):
            in_line.append((old, new))
    return f"{where}: " + ", ".join(f"{old} is now called {new}" for old, new in in_line or renamings)


def _literal(text: str, old: Any) -> Any:
    """Value of a word of the command line that replaces `old`: a Python literal, or text."""
    if isinstance(old, str) and text != "None":
        return text
    try:
        with warnings.catch_warnings():
            # Text such as "1is" is no mistake in a program.
            warnings.simplefilter("ignore")
            return ast.literal_eval({"true": "True", "false": "False"}.get(text, text))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        # The last three: a list in a set, and nesting that is too deep for Python's parser.
        return text
