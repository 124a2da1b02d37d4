"""The run to launch, the same for every cluster, and the description of a cluster."""

import json
import pathlib
import re
import shlex
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from tlx.base import place as places
from tlx.base.errors import ConfigError
from tlx.base.field_docs import field_docs
from tlx.base.packaged import packaged_folder
from tlx.launch.settings import RunSettings

_NAME = re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?")
_PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")


class LaunchJob(NamedTuple):
    """One run: arguments of `tlx train`, wherever it is started."""

    name: str
    """Name of the run; launched again under the same name it resumes."""
    config: str
    """Config as given to --config."""
    overrides: tuple[str, ...]
    """Overrides such as "--config.train.steps=40"."""
    workdir: str
    """Directory of the run as its hosts see it: a folder, gs:// or s3://."""
    config_file: pathlib.Path | None
    """File that `config` names; None for one that comes with tlx."""
    settings: RunSettings = RunSettings()
    """Changes to the environment of the run's processes."""
    saves_to_hosts: bool = False
    """Whether the run saves to its hosts too (checkpoint.local_every)."""

    def words(self, config: str | None = None) -> list[str]:
        """Return the command `tlx train ...`; `config` replaces the config's path if the file was moved."""
        flags = [*self.overrides, f"--config.name={self.name}", f"--workdir={self.workdir}"]
        return ["tlx", "train", f"--config={config or self.config}", *flags]

    @property
    def log_folder(self) -> pathlib.Path:
        """Folder of what launchers log: in the run's folder; of a run in a bucket, beside the rendered files."""
        is_bucket = places.is_bucket(self.workdir)
        folder = pathlib.Path("launched") / self.name if is_bucket else pathlib.Path(self.workdir)
        return folder.absolute() / "logs"

    def moved(self, path: str) -> str:
        """Return the value of --config after its file moved to `path`, with its argument."""
        _, colon, argument = self.config.partition(":")
        return path + colon + argument


class Cluster(NamedTuple):
    """A kind of cluster."""

    options: type
    """Frozen dataclass whose fields are the flags of `tlx launch KIND`."""
    render: Callable[[LaunchJob, Any], dict[str, str]]
    """(job, options) -> {file name: text} of everything that the cluster reads."""
    commands: Callable[[LaunchJob, Any, pathlib.Path], list[list[str]]]
    """(job, options, folder of the files) -> commands that start the run, for --dry-run."""
    run: Callable[[LaunchJob, Any, pathlib.Path], int]
    """(job, options, folder of the files) -> exit code; starts the run."""
    required: tuple[str, ...] = ()
    """Names of the flags that must be given besides --config and --name."""


def render(cluster: Cluster, job: LaunchJob, options: Any) -> dict[str, str]:
    """Return {file name: text} of everything that the cluster reads.

    Args:
        cluster: The cluster.
        job: The run.
        options: The cluster's flags.

    Returns:
        The files.

    Raises:
        ConfigError: A value has a line break or another control character: it could become a line of a script.
    """
    values = {**job._asdict(), **vars(options), "workdir": places.absolute_text(job.workdir)}
    overrides = {word.partition("=")[0].removeprefix("--"): word for word in values.pop("overrides")}
    given = values.pop("settings")
    settings = [("flag", word) for word in given.flags] + [("env", word) for word in given.env]
    settings += [("drop", word) for word in given.drop] + [("compilation_cache", given.compilation_cache)]
    for name, value in [*values.items(), *overrides.items(), *settings]:
        control = re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", str(value))
        if control:
            raise ConfigError(
                f"--{name.replace('_', '-')}={str(value)!r} has the control character {control[0]!r}; a value of "
                "`tlx launch` is one line of text"
            )
    return cluster.render(job, options)


def check_given(options: Any, names: tuple[str, ...]) -> None:
    """Raise ConfigError that names all of these flags that are empty, with what they are."""
    docs = field_docs(type(options))
    missing = [name for name in names if not getattr(options, name)]
    if missing:
        flags = " and ".join("--" + name.replace("_", "-") for name in missing)
        lines = [f"\n  --{name.replace('_', '-')}: {docs[name]}" for name in missing]
        raise ConfigError(f"{flags} {'is' if len(missing) == 1 else 'are'} needed" + "".join(lines))


def check_name(name: str) -> None:
    """Raise ConfigError for a name that is no legal host name, job name and folder."""
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"--name={name!r} must be up to 40 small letters, digits and dashes after a letter, as in llama-2"
        )


def templates() -> pathlib.Path:
    """Return the folder of the templates, in an installed package or in the checkout."""
    return packaged_folder("launch")


def fill(template: str, values: Mapping[str, Any], quote: Callable[[str], str]) -> str:
    """Replace {{name}} in a template by values.

    Args:
        template: File under launch/, such as "slurm/train.sbatch".
        values: Value of each name; texts are quoted, numbers and Raw texts inserted as they are.
        quote: Quotes a text in the language of the template.

    Returns:
        The filled text.

    Raises:
        KeyError: a name has no value, or a value no name; both are defects of tlx.
    """
    text = (templates() / template).read_text()
    names = set(_PLACEHOLDER.findall(text))
    if names != set(values):
        raise KeyError(f"{template}: placeholders and values differ in {sorted(names ^ set(values))}")

    def replacement(match: re.Match) -> str:
        value = values[match[1]]
        return quote(value) if isinstance(value, str) and not isinstance(value, Raw) else str(value)

    return _PLACEHOLDER.sub(replacement, text)


class Raw(str):
    """A text that is inserted into a template as it is, already quoted."""


def shell(word: str) -> str:
    """Quote a word for a shell."""
    return shlex.quote(word)


def yaml(value: str) -> str:
    """Quote a text for YAML, which accepts JSON's strings."""
    return json.dumps(value, ensure_ascii=False)
