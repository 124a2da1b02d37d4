"""Command-line flags: a verb's own through argparse, `--config.a.b=value` into the file's ConfigDict.

ml_collections' config_flags is not used: it cannot set a value to None or replace a None, and ends a bad
value with absl's code 1. Types are checked in one place instead, by the dataclasses (tlx.base.config).
"""

import argparse
import ast
import importlib.util
import pathlib
import re
import textwrap
import traceback
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from tlx.base.config import unknown_key
from tlx.base.errors import USAGE, ConfigError, one_of
from tlx.base.renamed_keys import new_name, new_paths_of

_CONFIG_HELP = (
    "a Python file with get_config(arg), as FILE, FILE:arg, or the name of a packaged one (quickstart:mlm); "
    "--config.a.b=VALUE changes one value of it"
)

_ALLOW_HELP = "on resuming, let this value (or group of values) of the config differ; may be repeated"


def parser(verb: str, about: str) -> argparse.ArgumentParser:
    """The argument parser of `tlx VERB`; `about` is shown by --help as it stands (a docstring)."""
    return argparse.ArgumentParser(
        prog=f"tlx {verb}",
        description=textwrap.dedent(about).strip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def add_config(arguments: argparse.ArgumentParser, required: bool = True) -> None:
    """Adds `--config`, whose value `parse` turns into a ConfigDict with all overrides applied."""
    arguments.add_argument("--config", required=required, metavar="FILE[:arg]", help=_CONFIG_HELP)


def parse(arguments: argparse.ArgumentParser, argv: list[str]) -> argparse.Namespace:
    """Parsed flags. `.config` is None or a ConfigDict; `.config_name` is what a run of it is called,
    `.config_words` the words that gave it.

    Wrong usage ends the process with exit 2; a wrong config raises ConfigError (exit 64).
    """
    overrides = [word for word in argv if word.startswith("--config.")]
    options, unknown = arguments.parse_known_args([word for word in argv if not word.startswith("--config.")])
    if unknown:
        flags = [flag for action in arguments._actions for flag in action.option_strings]
        arguments.exit(USAGE, f"{arguments.prog}: " + one_of("flag", unknown[0].split("=")[0], flags) + "\n")
    if getattr(options, "config", None) is not None:
        name = options.config
        options.config_words = [f"--config={name}", *overrides]
        options.config, options.config_name = load_config(name), run_name(name)
        for word in overrides:
            override(options.config, word)
    elif overrides:
        raise ConfigError(f"{overrides[0]} changes a value of --config=FILE, which is missing")
    return options


def load_config(name: str) -> ConfigDict:
    """The ConfigDict of "path/file.py", "path/file.py:arg" or a packaged name such as "quickstart:mlm".

    The file is executed: it is the user's own, never one that came with a checkpoint.
    """
    path, arg = _split(name)
    spec = importlib.util.spec_from_file_location(f"tlx_config_{path.stem}", path)
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
    """The file behind "path/file.py:arg"; None for a packaged config, which every installation has."""
    path = pathlib.Path(name.partition(":")[0])
    return path.absolute() if path.is_file() else None


def run_name(name: str) -> str:
    """ "quickstart-mlm-tiny" from "configs/quickstart.py:mlm:tiny": the run's folder under runs/."""
    path, arg = _split(name)
    return "-".join([path.stem, *filter(None, arg.replace("/", "-").replace(",", "-").split(":"))])


def override(config: ConfigDict, word: str) -> None:
    """Applies one "--config.a.b=value" to `config`; the key must exist, the value is a Python literal.

    A text stays a text where the key holds one ("--config.name=3"). Raises ConfigError with the nearest key.
    """
    key, equals, text = word.removeprefix("--config.").partition("=")
    if not equals:
        raise ConfigError(f"{word} has no value; write {word}=VALUE")
    _check_names(config, key)
    *groups, last = key.split(".")
    node, path = config, "config"
    for name in groups:
        node, path = _member(node, path, name), f"{path}.{name}"
    old = _member(node, path, last)
    if isinstance(old, ConfigDict):
        raise ConfigError(f"{path}.{last} is a group; set one of its keys: {', '.join(old)}")
    with node.ignore_type():
        node[last] = _literal(text, old)


def packaged_configs() -> pathlib.Path:
    """Folder of the configs that come with tlx: in an installed package, or in the checkout."""
    root = pathlib.Path(__file__).parents[1]
    inside = root / "_packaged" / "configs"
    return inside if inside.is_dir() else root.parent / "configs"


def _split(name: str) -> tuple[pathlib.Path, str]:
    """File and argument of FILE:arg; a path wins over a packaged name."""
    file, _, arg = name.partition(":")
    path = pathlib.Path(file)
    if path.is_file():
        return path, arg
    packaged = packaged_configs() / f"{file}.py"
    if packaged.is_file():
        return packaged, arg
    names = sorted(str(p.relative_to(packaged_configs()))[:-3] for p in packaged_configs().rglob("*.py"))
    raise ConfigError(f"--config: no file {file!r}, and " + one_of("name", file, names))


def _member(node: Any, path: str, name: str) -> Any:
    if not isinstance(node, Mapping | ConfigDict):
        raise ConfigError(f"{path} = {node!r} is a value, not a group: it has no key {name!r}")
    if name not in node:
        raise unknown_key(path, name, list(node))
    return node[name]


def _check_names(config: ConfigDict, key: str) -> None:
    """Raises ConfigError with today's dotted path where a name in `key` is an old one."""
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
        raise ConfigError(f"--config.{key} is now called --config.{new}")


def _renamed_key(error: Exception, path: pathlib.Path) -> str | None:
    """The message where a config file uses a key by an old name; None for any other error of it."""
    match = re.search(r"""^[\\"']*(?:Key ")?([a-z_0-9]+)["'\\]*(?:$| does not exist)""", str(error))
    found = new_paths_of(match[1]) if match else []
    if not found:
        return None
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    line = frames[-1].line or "" if frames else ""
    where = f"{path}:{frames[-1].lineno}" if frames else str(path)
    # Several groups had a key "decay": the line may say which, as in schedule.decay or schedule["decay"].
    named = [
        (old, new) for old, new in found if re.search(r"\b" + r"\W+".join(old.split(".")[-2:]) + r"\b", line)
    ]
    return f"{where}: " + ", ".join(f"{old} is now called {new}" for old, new in named or found)


def _literal(text: str, old: Any) -> Any:
    if isinstance(old, str) and text != "None":
        return text
    try:
        return ast.literal_eval({"true": "True", "false": "False"}.get(text, text))
    except (ValueError, SyntaxError):
        return text


def training_parser(verb: str, about: str) -> argparse.ArgumentParser:
    """The flags that all verbs that train have."""
    made = parser(verb, about)
    add_config(made)
    made.add_argument("--workdir", help="the run's directory; runs/NAME by default")
    made.add_argument("--allow-change", action="append", default=[], metavar="KEY", help=_ALLOW_HELP)
    made.add_argument("--profile", action="store_true", help="write a JAX trace of train.profile_steps")
    return made
