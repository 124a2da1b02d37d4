"""Models of the Hugging Face Hub by their address, hf://OWNER/NAME, through the package huggingface_hub.

Files lie in that package's own cache (HF_HOME), beside those that transformers has fetched. The token is that of
HF_TOKEN or of `hf auth login`; HF_ENDPOINT names another server.
"""

import importlib
import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from tlx.base.errors import ConfigError, DataError, StorageError
from tlx.hub.safetensors import INDEX, SINGLE, weight_files
from tlx.hub.sentence_transformers import MODULES, module_folders

SCHEME = "hf://"
# A name of the Hub: letters, digits, dashes, dots and underscores, none of the marks first, last or twice.
_NAME = re.compile(r"[A-Za-z0-9]+(?:[-._]?[A-Za-z0-9_]+)*")
# A branch, a tag or a commit: as git's names, of which refs/pr/1 has slashes.
_REVISION = re.compile(r"[\w][\w./-]{0,200}")
# Commits of addresses, by the server that was asked. A model is opened several times in a run (a teacher: for its
# config, its hash and its parameters): an address without a commit would be asked about each time, and could be
# another model the next time.
_commits: dict[tuple[str, str | None], str] = {}
# Configs, tokenizers and templates of a folder; weights are asked for by name.
_TEXTS = ("*.json", "*.txt", "*.model", "*.spm", "*.jinja")


class HubAddress(NamedTuple):
    """A repository of the Hub, and its revision."""

    name: str
    """OWNER/NAME; NAME alone of the Hub's first models (gpt2)."""
    revision: str | None
    """A branch, a tag or a commit; None: the newest of the main branch."""


def is_hub_address(path: object) -> bool:
    """Return whether a path is an address of the Hub."""
    # pathlib joins the slashes.
    return bool(re.match("hf:/+", str(path)))


def parse_address(text: str) -> HubAddress:
    """Parse "hf://OWNER/NAME" or "hf://OWNER/NAME@REVISION". Raises ConfigError for any other form."""
    name, mark, revision = re.sub("^hf:/+", "", text).partition("@")
    parts = name.split("/")
    legal = len(parts) <= 2 and all(_NAME.fullmatch(part) and len(part) <= 96 for part in parts)
    if mark:
        legal = legal and _REVISION.fullmatch(revision) is not None and ".." not in revision
    if not legal:
        raise ConfigError(
            f"{text} must be {SCHEME}OWNER/NAME, as in {SCHEME}ada/my-model, or {SCHEME}OWNER/NAME@REVISION "
            "(letters, digits, - . _)"
        )
    return HubAddress(name, revision if mark else None)


def require_hub(what: str) -> Any:
    """Return the package huggingface_hub. Raises ConfigError, beginning with `what`, where it is not installed."""
    try:
        return importlib.import_module("huggingface_hub")
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{what} needs the package huggingface_hub, which is not installed: pip install 'tlx-lm[hub]'"
        ) from error


def fetch(text: str) -> pathlib.Path:
    """Fetch the files of a model that tlx reads, and nothing else of its repository.

    Without a connection, or with HF_HUB_OFFLINE=1, what was fetched before serves. An address is resolved once in a
    process: all that opens it later reads the same commit.

    Args:
        text: An address as parse_address takes it.

    Returns:
        The folder of the files in the cache of huggingface_hub; its name is the commit.

    Raises:
        ConfigError: The address is none, or huggingface_hub is not installed.
        DataError: There is no such model or revision, it may not be read, or has no weights in safetensors.
        StorageError: The Hub cannot be reached, and the cache lacks a file.
    """
    address = parse_address(text)
    download = _Download(text, require_hub(text), address)
    asked = (text, os.environ.get("HF_ENDPOINT"))
    folder = download.files(_TEXTS, _commits.get(asked, address.revision), ignored=("*/*",))
    commit = folder.name
    _commits[asked] = commit
    subfolders = module_folders(folder) if (folder / MODULES).is_file() else []
    if subfolders:
        download.files([f"{inner}/{kind}" for inner in subfolders for kind in _TEXTS], commit)
    if not any((folder / inner / "config.json").is_file() for inner in ("", *subfolders)):
        raise DataError(f"{text} has no config.json: it is no model that tlx can read")
    weights = [name for inner in ("", *subfolders) for name in _weights(folder, inner)]
    download.files(weights, commit)
    if not any((folder / name).is_file() for name in weights):
        raise DataError(
            f"{text} has no {SINGLE}, nor {INDEX}: other weights (pytorch_model.bin) are pickles, which can run any "
            "code when they are read: tlx never does. Its pages may have a revision with safetensors (@refs/pr/N)"
        )
    return folder


def _weights(folder: pathlib.Path, inner: str) -> list[str]:
    """Return the names of the weight files of a folder of a repository, as far as its index tells them."""
    prefix = f"{inner}/" if inner else ""
    names = weight_files(folder / inner) if (folder / inner / INDEX).is_file() else []
    return [prefix + name for name in (SINGLE, *names)]


class _Download(NamedTuple):
    """Requests for files of one repository."""

    text: str
    """The address as the user wrote it, for messages."""
    hub: Any
    """The package huggingface_hub."""
    address: HubAddress
    """The repository."""

    def files(
        self, patterns: Sequence[str], revision: str | None, ignored: Sequence[str] = ()
    ) -> pathlib.Path:
        """Fetch the files that match one of the patterns and none of those that are ignored; return their folder."""
        errors = importlib.import_module("huggingface_hub.errors")
        try:
            folder = self.hub.snapshot_download(
                self.address.name,
                revision=revision,
                allow_patterns=list(patterns),
                ignore_patterns=list(ignored) or None,
                endpoint=os.environ.get("HF_ENDPOINT"),
            )
        except errors.RevisionNotFoundError as error:
            raise DataError(f"{self.text}: there is no revision {revision!r}") from error
        except errors.RepositoryNotFoundError as error:
            # A gated model is one of these too.
            raise DataError(
                f"{self.text} is not there, or is private or gated: check the name, accept its terms on its page, "
                "and set HF_TOKEN to a token that may read it"
            ) from error
        except errors.LocalEntryNotFoundError as error:
            raise StorageError(
                f"{self.text}: the Hub cannot be reached, and its cache on this machine has not all of "
                f"{', '.join(patterns)}; run it once with a connection"
            ) from error
        except Exception as error:  # of several HTTP libraries, by version
            raise StorageError(
                f"cannot fetch {self.text}: {type(error).__name__}: {one_line(error)}"
            ) from error
        return pathlib.Path(folder)


def one_line(error: Exception) -> str:
    """Return the text of an error of the Hub's client as one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines)[:400]
