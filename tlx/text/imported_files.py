"""Files and special ids of imported tokenizers, whichever program runs them."""

import json
import os
import pathlib
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from tlx.base.errors import DataError, shown
from tlx.base.files import atomic_open
from tlx.base.json_object import RepeatedKey, check_keys
from tlx.text.generation_rules import FILE as GENERATION_FILE
from tlx.text.generation_rules import read_file
from tlx.text.vocabulary import ROLES


def read_imported(folder: pathlib.Path, names: Iterable[str]) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Read the files of a tokenizer in a Hugging Face directory.

    Args:
        folder: The directory.
        names: Names of the files that count; those that are absent are left out.

    Returns:
        ({name: content}, rules of generation included; the parsed config.json of the model).

    Raises:
        DataError: generation_config.json is not a JSON object, or a JSON file names a key twice.
    """
    files = {name: (folder / name).read_bytes() for name in names if (folder / name).is_file()}
    try:
        model_config = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError):
        model_config = {}  # a tokenizer alone; one that cannot be parsed is reported with the model
    files |= read_file(folder, model_config)
    for name, content in files.items():
        if name.endswith(".json"):
            # Here and not where a run's tokenizer is read: runs that were imported before this check load.
            try:
                check_keys(content)
            except RepeatedKey as error:
                raise DataError(f"{folder / name} is not usable JSON: {error}") from error
    return files, model_config


def settings_of(files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    """Return the JSON object in a file of settings, {} where there is no such file; DataError for anything else."""
    try:
        values = json.loads(files.get(name, b"{}"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name} of the tokenizer is no JSON: {error}") from error
    if not isinstance(values, dict):
        raise DataError(f"{name} of the tokenizer holds {shown(values)}, and must hold an object")
    return values


def read_stored(folder: pathlib.Path, names: Iterable[str]) -> dict[str, bytes]:
    """Read the files that `write_files` wrote. Raises DataError where one cannot be read."""
    try:
        return {name: (folder / name).read_bytes() for name in names}
    except OSError as error:
        raise DataError(f"cannot read the tokenizer: {error}") from error


def write_files(folder: str | os.PathLike, files: Mapping[str, bytes]) -> None:
    """Write the files unchanged, for other programs and for `read_stored`."""
    pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        with atomic_open(pathlib.Path(folder) / name, "wb") as handle:
            handle.write(content)


def hashed_content(files: Mapping[str, bytes]) -> bytes:
    """Return names and contents of the files that decide the map from text to ids.

    How text is generated is kept with a tokenizer, but is no part of that map.
    """
    return b"".join(name.encode() + files[name] for name in sorted(set(files) - {GENERATION_FILE}))


def stated_roles(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return {role: token} of the roles that the settings of a tokenizer name ("pad_token")."""
    roles: dict[str, str] = {}
    for role in ROLES:
        token = settings.get(f"{role}_token")
        if isinstance(token, dict):
            token = token.get("content")
        if isinstance(token, str):
            roles[role] = token
    return roles


def number_roles(known: Mapping[str, int], size: int) -> tuple[dict[str, int], list[str]]:
    """Give every role an id: cls and sep serve as bos and eos, and others are added after the last id.

    Args:
        known: {role: id} of the imported vocabulary.
        size: Size of the imported vocabulary.

    Returns:
        ({role: id}, the roles that were added).
    """
    ids = dict(known)
    for role, substitute in (("bos", "cls"), ("eos", "sep")):
        if role not in ids and substitute in ids:
            ids[role] = ids[substitute]
    added = [role for role in ROLES if role not in ids]
    return ids | {role: size + number for number, role in enumerate(added)}, added


def pattern_of(names: Collection[str]) -> re.Pattern[str]:
    """Return the pattern that splits a text at names of special ids, longest first, and keeps them."""
    return re.compile("(" + "|".join(map(re.escape, sorted(names, key=len, reverse=True))) + ")")
