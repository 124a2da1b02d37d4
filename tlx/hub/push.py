"""Upload of an exported directory to a repository of the Hugging Face Hub, through the package huggingface_hub."""

import os
import pathlib
from typing import Any, NamedTuple

from tlx.base.errors import ConfigError, StorageError
from tlx.hub.download import SCHEME, one_line, parse_address, require_hub

# Weights of an earlier export that are no part of this one; other files of the repository stay.
_REPLACED = ("*.safetensors", "*.safetensors.index.json")


class HubRepository(NamedTuple):
    """A repository that can be uploaded to."""

    name: str
    """OWNER/NAME."""
    client: Any
    """A huggingface_hub.HfApi with its token."""


def repository_name(address: str) -> str:
    """Return "OWNER/NAME" of "hf://OWNER/NAME". Raises ConfigError for any other form."""
    name, revision = parse_address(address) if address.startswith(SCHEME) else ("", None)
    if "/" not in name or revision is not None:
        raise ConfigError(
            f"--push={address} must be {SCHEME}OWNER/NAME, as in {SCHEME}ada/my-model (letters, digits, - . _)"
        )
    return name


def open_repository(address: str) -> HubRepository:
    """Check address, package, token and connection, before anything is exported.

    The token is that of HF_TOKEN, or of `hf auth login`; it is never an argument, a config value or a log line.

    Args:
        address: "hf://OWNER/NAME"; it need not exist.

    Returns:
        The repository, to which nothing is written yet.

    Raises:
        ConfigError: the address is not legal, huggingface_hub is not installed, or there is no token.
        StorageError: the Hub cannot be reached, or refuses the token.
    """
    name = repository_name(address)
    hub = require_hub(f"--push={address}")
    token = hub.get_token()
    if token is None:
        raise ConfigError(
            f"--push={address}: there is no token of the Hugging Face Hub; set HF_TOKEN to one with write access, "
            "or run `hf auth login`"
        )
    client = hub.HfApi(token=token)
    try:
        client.whoami()
    except Exception as error:  # of several HTTP libraries, by version
        raise _refused(address, error) from error
    return HubRepository(name, client)


def upload(repository: HubRepository, folder: str | os.PathLike, message: str, public: bool = False) -> str:
    """Upload a folder as one commit; the repository is created where it does not exist.

    Weights (*.safetensors) of an earlier commit that the folder lacks are removed from the new one.

    Args:
        repository: as `open_repository` returned it.
        folder: folder of the files.
        message: message of the commit.
        public: whether a repository that is created here is public; an existing one stays as it is.

    Returns:
        The address of the commit.

    Raises:
        StorageError: the upload failed; the folder stays.
    """
    name = repository.name
    try:
        repository.client.create_repo(name, private=not public, exist_ok=True)
        commit = repository.client.upload_folder(
            repo_id=name,
            folder_path=pathlib.Path(folder),
            commit_message=message,
            delete_patterns=list(_REPLACED),
        )
    except Exception as error:  # of several HTTP libraries, by version
        raise _refused(SCHEME + name, error) from error
    return str(commit.commit_url)


def _refused(address: str, error: Exception) -> StorageError:
    return StorageError(f"cannot push to {address}: {type(error).__name__}: {one_line(error)}")
