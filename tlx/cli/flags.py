"""Command-line flags: a verb's own through argparse, `--config.a.b=value` into the file's ConfigDict.

This module imports neither jax nor ml_collections, so that `tlx VERB --help` answers at once; `parse` loads
what a --config needs. ml_collections' config_flags is not used: it cannot set a value to None or replace a
None, and ends a bad value with absl's code 1. Types are checked in one place instead, by the dataclasses
(tlx.base.config).
"""

import argparse
import importlib
import textwrap
from typing import TYPE_CHECKING, Any

from tlx.base.errors import USAGE, ConfigError, one_of

if TYPE_CHECKING:
    from tlx.trainer.driver import TrainerOptions

_CONFIG_HELP = (
    "a Python file with get_config(arg), as FILE, FILE:arg, or the name of a packaged one (quickstart:mlm); "
    "--config.a.b=VALUE changes one value of it"
)
_ALLOW_CHANGE_HELP = (
    "when resuming, let this value (or group of values) of the config differ; may be repeated"
)
_ALLOW_HELP = "a package outside tlx whose code the saved config may name; may be repeated"
STEP_HELP = (
    'step of the checkpoint, or "best" of a run with checkpoint.keep_best; the newest sound one by default'
)
_DTYPE_HELP = "dtype of parameters and computation; the run's own by default"


def parser(verb: str, about: str | None) -> argparse.ArgumentParser:
    """Return the argument parser of `tlx VERB`; --help shows `about` as it stands (a module's docstring)."""
    return argparse.ArgumentParser(
        prog=f"tlx {verb}",
        description=textwrap.dedent(about or "").strip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def training_parser(verb: str, about: str | None) -> argparse.ArgumentParser:
    """Return a parser with the flags that all verbs that train have."""
    arguments = parser(verb, about)
    add_config(arguments)
    arguments.add_argument("--workdir", help="run directory; runs/NAME by default")
    arguments.add_argument(
        "--allow-change", action="append", default=[], metavar="KEY", help=_ALLOW_CHANGE_HELP
    )
    arguments.add_argument("--profile", action="store_true", help="write a JAX trace of train.profile_steps")
    arguments.add_argument("--allow", action="append", default=[], metavar="PACKAGE", help=_ALLOW_HELP)
    return arguments


def add_run(arguments: argparse.ArgumentParser) -> None:
    """Add the arguments of every verb that loads a model."""
    arguments.add_argument("run", metavar="RUN", help="run directory, or one of its checkpoint directories")
    arguments.add_argument("--step", type=checkpoint_step, help=STEP_HELP)
    arguments.add_argument("--dtype", choices=("float32", "bfloat16"), help=_DTYPE_HELP)
    arguments.add_argument("--allow", action="append", default=[], metavar="PACKAGE", help=_ALLOW_HELP)


def checkpoint_step(word: str) -> int | str:
    """Return the value of --step: a number or "best". Raises argparse's error (exit 2) for another word."""
    if word == "best":
        return word
    try:
        return int(word)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{word!r} is neither a number nor 'best'") from error


def add_config(arguments: argparse.ArgumentParser, required: bool = True) -> None:
    """Add `--config`, whose value `parse` turns into a ConfigDict with all overrides applied."""
    arguments.add_argument("--config", required=required, metavar="FILE[:arg]", help=_CONFIG_HELP)


def parse(arguments: argparse.ArgumentParser, argv: list[str]) -> argparse.Namespace:
    """Return the parsed flags, with the config read and overridden.

    `.config` is None or a ConfigDict, `.config_name` the default name of its run, `.config_words` the words
    of the command line that gave it. Wrong usage ends the process with exit 2; a wrong config raises
    ConfigError (exit 64).
    """
    overrides = [word for word in argv if word.startswith("--config.")]
    options, unknown = arguments.parse_known_args([word for word in argv if not word.startswith("--config.")])
    if unknown:
        flags = [flag for action in arguments._actions for flag in action.option_strings]
        arguments.exit(USAGE, f"{arguments.prog}: " + one_of("flag", unknown[0].split("=")[0], flags) + "\n")
    name = getattr(options, "config", None)
    if name is None:
        if overrides:
            raise ConfigError(f"{overrides[0]} changes a value of --config=FILE, which is missing")
        return options
    from tlx.base import config_files

    options.config_words = [f"--config={name}", *overrides]
    options.config = config_files.load_config(name)
    options.config_name = config_files.run_name(name)
    for word in overrides:
        config_files.override(options.config, word)
    return options


def trainer_options(options: argparse.Namespace) -> "TrainerOptions":
    """Return how a training of these flags is started; a second signal and the watchdog end the process."""
    from tlx.trainer.driver import TrainerOptions

    return TrainerOptions(
        workdir=options.workdir,
        base=options.base,
        allow_change=options.allow_change,
        allow=options.allow,
        profile=options.profile,
        ends_process=True,
    )


def __getattr__(name: str) -> Any:
    """Functions that config files written by `tlx plan --search` import from here; loaded when asked for."""
    if name in ("load_config", "override", "config_file", "run_name"):
        return getattr(importlib.import_module("tlx.base.config_files"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
