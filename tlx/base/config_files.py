"""Config files: located by path or packaged name, executed, and changed by dotted keys."""

import ast
import difflib
import pathlib
import warnings
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from tlx.base.config import unknown_key
from tlx.base.config_execution import execute
from tlx.base.errors import ConfigError, shown
from tlx.base.nearest_path import suggest_paths
from tlx.base.packaged import packaged_folder
from tlx.base.renamed_keys import new_name
from tlx.base.synonyms import canonical

# Folder of config files, in the checkout, in the package and in the user's own projects.
_CONFIGS = "configs"


def load_config(name: str) -> ConfigDict:
    """Return the ConfigDict of "path/file.py", "path/file.py:arg" or a packaged name ("quickstart:mlm").

    The file is executed: it is the user's own, never one that came with a checkpoint. Raises ConfigError
    with the file and the line where that fails, and with the nearest paths where there is no such file.
    """
    path, arg = _split(name)
    return execute(path, arg, path.absolute().is_relative_to(packaged_configs()))


def config_file(name: str) -> pathlib.Path | None:
    """Return the file of "path/file.py:arg"; None for a packaged config, which every installation has."""
    path = pathlib.Path(name.partition(":")[0])
    return path.absolute() if path.is_file() else None


def run_name(name: str) -> str:
    """Return "quickstart-mlm-tiny" for "configs/quickstart.py:mlm:tiny": the run's folder under runs/.

    Folders below one that is called configs are part of it, "finetune-quickstart", so that configs of one
    name have runs of their own.
    """
    path, arg = _split(name)
    parts = path.absolute().with_suffix("").parts
    below = len(parts) - 1
    if _CONFIGS in parts[:-1]:
        below = len(parts) - 1 - parts[-2::-1].index(_CONFIGS)
    words = arg.replace("/", "-").replace(",", "-").split(":")
    return "-".join([*parts[below:], *filter(None, words)])


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
            node[names[-1]] = canonical(key, value)
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
    if "://" in name:
        raise ConfigError(
            f"--config={name}: a config is executed, so it is a file of this machine; copy it here first"
        )
    file, _, arg = name.partition(":")
    path = pathlib.Path(file)
    if path.is_file():
        return path, arg
    packaged = packaged_configs() / f"{file.removeprefix('configs/').removesuffix('.py')}.py"
    if packaged.is_file():
        return packaged, arg
    names = sorted(str(p.relative_to(packaged_configs()))[:-3] for p in packaged_configs().rglob("*.py"))
    near = difflib.get_close_matches(file, names, n=2, cutoff=0.6)
    hint = suggest_paths(path, lambda other: other.suffix == ".py", near)
    raise ConfigError(f"config: no file {file!r}, and no config of that name comes with tlx; {hint}")


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
