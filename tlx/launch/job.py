"""What is to be run, the same for every cluster, and how a cluster is described."""

import json
import pathlib
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import field
from typing import Any, NamedTuple

from tlx.base.errors import ConfigError

_NAME = re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?")
_SLOT = re.compile(r"\{\{(\w+)\}\}")


class LaunchJob(NamedTuple):
    """One run: `tlx train` with these words, wherever it is started."""

    name: str  # of the run; started again under the same name it goes on
    config: str  # as given to --config
    overrides: tuple[str, ...]  # "--config.a.b=value"
    workdir: str  # the run's directory as its hosts see it
    config_file: pathlib.Path | None  # the file behind `config`; None for one that comes with tlx

    def words(self, config: str | None = None) -> list[str]:
        """`tlx train ...`; `config`: where the file lies there, if not as given."""
        named = [*self.overrides, f"--config.name={self.name}", f"--workdir={self.workdir}"]
        return ["tlx", "train", f"--config={config or self.config}", *named]

    def moved(self, place: str) -> str:
        """The config's name once its file lies at `place`, its argument kept."""
        _, colon, arg = self.config.partition(":")
        return place + colon + arg


class Cluster(NamedTuple):
    """A kind of machine. `options` is a frozen dataclass: its fields are the flags of `tlx launch KIND`."""

    options: type
    render: Callable[[LaunchJob, Any], dict[str, str]]  # files by name, which say all there is to say
    commands: Callable[[LaunchJob, Any, pathlib.Path], list[list[str]]]  # what starts them, for --dry-run
    run: Callable[[LaunchJob, Any, pathlib.Path], int]  # starts the files in the folder; an exit code


def option(default: Any, help: str) -> Any:
    """A field of a cluster's options: a flag of the same name, its help text."""
    return field(default=default, metadata={"help": help})


def check_name(name: str) -> None:
    """Names become host names, job names and folders: what all of them can bear."""
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"--name={name!r} must be up to 40 small letters, digits and dashes after a letter, as in llama-2"
        )


def templates() -> pathlib.Path:
    """Folder of the templates: in an installed package, or in the checkout."""
    root = pathlib.Path(__file__).parents[1]
    inside = root / "_packaged" / "launch"
    return inside if inside.is_dir() else root.parent / "launch"


def fill(template: str, values: Mapping[str, Any], quote: Callable[[str], str]) -> str:
    """The template's file with {{name}} replaced; texts are quoted, numbers and Raw parts put as they are.

    A slot without a value and a value without a slot are defects: KeyError.
    """
    text = (templates() / template).read_text()
    slots = set(_SLOT.findall(text))
    if slots != set(values):
        raise KeyError(f"{template}: slots and values differ in {sorted(slots ^ set(values))}")

    def put(match: re.Match) -> str:
        value = values[match[1]]
        return quote(value) if isinstance(value, str) and not isinstance(value, Raw) else str(value)

    return _SLOT.sub(put, text)


class Raw(str):
    """A text that is put into a template as it is: a part already quoted."""


def shell(word: str) -> str:
    """A word as a shell reads it back."""
    return shlex.quote(word)


def yaml(value: str) -> str:
    """A text as YAML reads it back: JSON's strings are YAML's."""
    return json.dumps(value, ensure_ascii=False)
