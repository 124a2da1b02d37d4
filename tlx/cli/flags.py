"""Command-line flags: a verb's own through argparse, `--config.a.b=value` into the file's ConfigDict.

This module imports neither jax nor ml_collections, so that `tlx VERB --help` answers at once; `parse` loads
what a --config needs. ml_collections' config_flags is not used: it cannot set a value to None or replace a
None, and ends a bad value with absl's code 1. Types are checked in one place instead, by the dataclasses
(tlx.base.config).
"""

import argparse
import importlib
import os
import textwrap
from typing import TYPE_CHECKING, Any

from tlx.base.errors import USAGE, ConfigError, one_of
from tlx.launch.secrets import refuse_secrets

if TYPE_CHECKING:
    from tlx.trainer.driver import TrainerOptions

_OVERRIDE = "--config."

_CONFIG_HELP = (
    "a Python file with get_config(arg), as FILE, FILE:arg, or the name of a packaged one (quickstart:mlm); "
    "--config.a.b=VALUE changes one value of it, --config.a --help explains the values of a"
)
_ALLOW_CHANGE_HELP = (
    "when resuming, let this value (or group of values) of the config differ; may be repeated"
)
_ALLOW_HELP = "a package outside tlx whose code the saved config may name; may be repeated"
STEP_HELP = (
    'step of the checkpoint, or "best" of a run with checkpoint.keep_best; the newest sound one by default'
)
PARAMS_HELP = (
    'parameters of a run: "trained" by default, "ema" for their moving average (train.ema), or "mean:N" for the mean '
    "of the last N checkpoints"
)
_WEIGHTS_HELP = "keep the model's matrices in so many bits in memory: int8, int4 or nf4; in full by default"
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
    arguments.add_argument(
        "run",
        metavar="RUN",
        help="run directory, one of its checkpoint directories, a Hugging Face directory, "
        "or hf://OWNER/NAME[@REVISION] of the Hub",
    )
    arguments.add_argument("--step", type=checkpoint_step, help=STEP_HELP)
    arguments.add_argument("--params", default="trained", metavar="trained|ema|mean:N", help=PARAMS_HELP)
    arguments.add_argument("--dtype", choices=("float32", "bfloat16"), help=_DTYPE_HELP)
    arguments.add_argument("--allow", action="append", default=[], metavar="PACKAGE", help=_ALLOW_HELP)


def add_weights(arguments: argparse.ArgumentParser) -> None:
    """Add --weights, of verbs that use a model and do not change it."""
    arguments.add_argument("--weights", choices=("int8", "int4", "nf4"), help=_WEIGHTS_HELP)


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
    of the command line that gave it. The config may also be given without --config, as the last word that is
    not a flag, and values after a space. `--config.GROUP --help` explains a group of keys. Wrong usage ends
    the process with exit 2; a wrong config raises ConfigError (exit 64).
    """
    argv = _with_config_flag(arguments, _with_equals_signs(argv))
    overrides = [word for word in argv if word.startswith(_OVERRIDE)]
    words = [word for word in argv if not word.startswith(_OVERRIDE)]
    if overrides and not {"-h", "--help"}.isdisjoint(words):
        _print_explanations(arguments, words, overrides)
    # The command line is in every list of processes, and the words are shown again by messages.
    refuse_secrets(overrides, os.environ)
    options, unknown = arguments.parse_known_args(words)
    if unknown:
        arguments.exit(USAGE, f"{arguments.prog}: {_unknown_word(arguments, unknown[0])}\n")
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


def _with_equals_signs(argv: list[str]) -> list[str]:
    """Join "--config", "FILE" and "--config.a.b", "VALUE" to one word; a flag is no value."""
    joined: list[str] = []
    for word in argv:
        last = joined[-1] if joined else ""
        is_flag = word.startswith("--") or word == "-h"
        if (last == "--config" or last.startswith(_OVERRIDE)) and "=" not in last and not is_flag:
            joined[-1] = f"{last}={word}"
        else:
            joined.append(word)
    return joined


def _with_config_flag(arguments: argparse.ArgumentParser, argv: list[str]) -> list[str]:
    """Put --config before the word that follows the verb's own positional words, where there is no --config."""
    by_flag = {flag: action for action in arguments._actions for flag in action.option_strings}
    positional = [action for action in arguments._actions if not action.option_strings]
    has_flag = any(word == "--config" or word.startswith("--config=") for word in argv)
    if "--config" not in by_flag or has_flag or any(action.nargs is not None for action in positional):
        return argv
    expected = len(positional)
    is_value = False
    for i, word in enumerate(argv):
        if word.startswith("-") or is_value:
            action = by_flag.get(word)
            is_value = action is not None and action.nargs != 0
            continue
        if expected == 0:
            return [*argv[:i], f"--config={word}", *argv[i + 1 :]]
        expected -= 1
    return argv


def _unknown_word(arguments: argparse.ArgumentParser, word: str) -> str:
    """Message for a word of the command line that the verb does not know."""
    flags = [flag for action in arguments._actions for flag in action.option_strings]
    name = word.split("=")[0]
    if not word.startswith("-"):
        return f"unexpected word {word!r}; a value with spaces needs quotes. Flags: {', '.join(flags)}"
    if "." in name and "--config" in flags:
        return f"flag = {name!r} is unknown; a value of the config is changed by --config.{word.lstrip('-')}"
    return one_of("flag", name, flags)


def _print_explanations(arguments: argparse.ArgumentParser, words: list[str], overrides: list[str]) -> None:
    """Print the meaning of the keys in `overrides`, and end the process."""
    from tlx.base import config_files
    from tlx.cli import explanations

    files = [word.removeprefix("--config=") for word in words if word.startswith("--config=")]
    config = config_files.load_config(files[0]) if files else None
    for word in overrides:
        key = word.removeprefix(_OVERRIDE).partition("=")[0]
        print(explanations.explain(key, config))
    arguments.exit(0)


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
