"""A teacher, a model that another one learns from: opened by path, its parameters read sharded."""

import dataclasses
import hashlib
import os
import pathlib
from typing import Any, NamedTuple

import jax

from tlx.base import tree
from tlx.base.config import from_dict
from tlx.base.errors import CheckpointError, ConfigError, DataError
from tlx.base.files import sha256_file
from tlx.checkpoint import load_params, reading, steps
from tlx.hub.folder import is_hugging_face, open_folder
from tlx.models.config import ModelConfig
from tlx.text import load_tokenizer
from tlx.training.directory import find_run_folder, read_run

_HASHED_BYTES = 1 << 20  # bytes of each end of a weights file that its hash covers


class Teacher(NamedTuple):
    """Description of a teacher, read before its parameters."""

    model: ModelConfig
    """Its architecture."""
    hash: str
    """sha256 of its parameters: of the newest checkpoint's manifest where it is a run."""


def open_teacher(path: str) -> Teacher:
    """Open a teacher: a run directory, one of its checkpoints, or a Hugging Face directory.

    Raises DataError where there is none, and what the readers of these directories raise.
    """
    folder = pathlib.Path(path).absolute()
    if is_hugging_face(folder):
        files = sorted(folder.glob("*.safetensors"))
        return Teacher(open_folder(folder).config, _hash([folder / "config.json", *files]))
    run_folder, run = _read_teacher_run(folder)
    model = from_dict(ModelConfig, run["config"]["model"], "teacher.model")
    if not model.vocab_size:
        tokenizer = load_tokenizer(run_folder / "tokenizer")
        model = dataclasses.replace(model, vocab_size=tokenizer.vocab.size)
    # The manifest holds the sums of all files, so that its own identifies the weights without reading them.
    return Teacher(model, sha256_file(_step_folder(folder) / steps.MANIFEST))


def with_teacher(objective: Any) -> Any:
    """Fill in an objective's config what its teacher is, where it names one that was not opened yet."""
    path = getattr(objective, "teacher", "")
    if not path or objective.teacher_hash:
        return objective
    teacher = open_teacher(path)
    return dataclasses.replace(objective, teacher_model=teacher.model, teacher_hash=teacher.hash)


def check_tokenizer(objective: Any, tokenizer_hash: str) -> None:
    """Raise ConfigError where the teacher is a run with another tokenizer: same ids, other pieces."""
    path = getattr(objective, "teacher", "")
    folder = pathlib.Path(path).absolute()
    if not path or is_hugging_face(folder):
        return
    run_folder, run = _read_teacher_run(folder)
    if run["tokenizer_hash"] != tokenizer_hash:
        raise ConfigError(
            f"objective.teacher = {path!r} has another tokenizer than this run; take its own with "
            f"tokenizer.path = {str(run_folder / 'tokenizer')!r}"
        )


def read_frozen(objective: Any, wanted: Any) -> Any:
    """Read the frozen parameters of a run with this objective.

    `wanted` are abstract arrays with shardings, {} or {"teacher": ...}; returned are arrays in its structure.
    Raises ConfigError where the teacher is not the one that the config was resolved with, CheckpointError
    where it lacks a wanted parameter.
    """
    if not wanted:
        return {}
    if not objective.teacher:
        raise ConfigError("objective.teacher is empty: name a run directory or a Hugging Face directory")
    folder = pathlib.Path(objective.teacher).absolute()
    # The loss depends on every weight of the teacher: with other ones the run would silently become another.
    if open_teacher(objective.teacher).hash != objective.teacher_hash:
        raise ConfigError(
            f"objective.teacher = {objective.teacher!r} has other weights than when this run started; name "
            "the checkpoint that it had (RUN/checkpoints/STEP), or start a new run"
        )
    # A large teacher of Hugging Face is never read whole: each device's slice comes from the file.
    if is_hugging_face(folder):
        multiple = objective.teacher_model.vocab_multiple
        params = open_folder(folder, vocab_multiple=multiple).params
    else:
        params = tree.flatten(load_params(folder).tree)

    def read(path: str, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        return _read_sharded(path, leaf, params, folder)

    return {"teacher": tree.map_with_path(read, wanted["teacher"])}


def _read_sharded(path: str, wanted: jax.ShapeDtypeStruct, params: Any, folder: pathlib.Path) -> jax.Array:
    """Return a parameter sharded as wanted; of a Hugging Face directory each device's slice is read alone."""
    stored = params.get(path)
    if stored is None or tuple(stored.shape) != wanted.shape:
        what = "no" if stored is None else f"{tuple(stored.shape)} and not {wanted.shape} for"
        raise CheckpointError(f"the teacher {folder} has {what} {path}")
    read_slice = stored.read if hasattr(stored, "read") else stored.__getitem__

    def read(index: tuple[slice, ...] | None) -> Any:
        return read_slice(index).astype(wanted.dtype)

    return jax.make_array_from_callback(wanted.shape, wanted.sharding, read)


def _read_teacher_run(path: pathlib.Path) -> tuple[pathlib.Path, dict[str, Any]]:
    """Return the run directory that `path` is, or is a checkpoint of, and its run.json."""
    folder = find_run_folder(path)
    run = None if folder is None else read_run(folder)
    if folder is None or run is None:
        raise DataError(
            f"objective.teacher = {str(path)!r} is neither a run directory (or a checkpoint of one) nor a "
            "Hugging Face directory"
        )
    return folder, run


def _step_folder(path: pathlib.Path) -> pathlib.Path:
    """Return the checkpoint that `path` means: itself, or the newest complete one."""
    if steps.is_complete(path):
        return path
    folder = reading.steps_folder(path)
    complete = steps.listing(folder).complete
    if not complete:
        raise CheckpointError(f"the teacher {path} has no complete checkpoint")
    return folder / str(complete[-1])


def _hash(files: list[pathlib.Path]) -> str:
    """Hash names, sizes and both ends: weights files are too large to be read whole at every start."""
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as handle:
            digest.update(handle.read(_HASHED_BYTES))
            handle.seek(max(size - _HASHED_BYTES, 0), os.SEEK_SET)
            digest.update(handle.read(_HASHED_BYTES))
    return digest.hexdigest()
