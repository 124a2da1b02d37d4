"""A model that another one learns from: opened by the path in a config, its parameters read onto the mesh."""

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
from tlx.training.directory import read_run

_PART = 1 << 20  # bytes of each end of a file of weights that its hash covers


class Teacher(NamedTuple):
    """What a teacher is; its weights are not read yet."""

    model: ModelConfig
    hash: str  # of its weights: those of its newest checkpoint, where it is a run


def open_teacher(path: str) -> Teacher:
    """The teacher at `path`: a run directory, one of its checkpoints, or a Hugging Face directory.

    Raises DataError where there is none, else as what reads it.
    """
    folder = pathlib.Path(path).absolute()
    if is_hugging_face(folder):
        files = sorted(folder.glob("*.safetensors"))
        return Teacher(open_folder(folder).config, _hash([folder / "config.json", *files]))
    run = _run_folder(folder)
    saved = read_run(run)["config"]["model"]
    model = from_dict(ModelConfig, saved, "teacher.model")
    if not model.vocab_size:
        model = dataclasses.replace(model, vocab_size=load_tokenizer(run / "tokenizer").vocab.size)
    return Teacher(model, sha256_file(_step_folder(folder) / steps.MANIFEST))


def with_teacher(objective: Any) -> Any:
    """An objective's config with what its teacher is filled in, where it names one and was not read yet."""
    path = getattr(objective, "teacher", "")
    if not path or objective.teacher_hash:
        return objective
    model, found = open_teacher(path)
    return dataclasses.replace(objective, teacher_model=model, teacher_hash=found)


def check_tokenizer(objective: Any, tokenizer_hash: str) -> None:
    """ConfigError where the teacher is a run with another tokenizer than this one: same ids, other pieces."""
    path = getattr(objective, "teacher", "")
    folder = pathlib.Path(path).absolute()
    if not path or is_hugging_face(folder):
        return
    run = _run_folder(folder)
    if read_run(run)["tokenizer_hash"] != tokenizer_hash:
        raise ConfigError(
            f"objective.teacher = {path!r} has another tokenizer than this run; take its own with "
            f"tokenizer.path = {str(run / 'tokenizer')!r}"
        )


def read_frozen(objective: Any, wanted: Any) -> Any:
    """The frozen parameters of a run with this objective, sharded as the abstract arrays `wanted` say.

    Raises ConfigError where the teacher is not the one that the config was resolved with, CheckpointError
    where it lacks what is wanted of it.
    """
    if not wanted:
        return {}
    if not objective.teacher:
        raise ConfigError("objective.teacher is empty: name a run directory or a Hugging Face directory")
    folder = pathlib.Path(objective.teacher).absolute()
    if open_teacher(objective.teacher).hash != objective.teacher_hash:
        raise ConfigError(
            f"objective.teacher = {objective.teacher!r} has other weights than when this run started; name "
            "the checkpoint that it had (RUN/checkpoints/STEP), or start a new run"
        )
    abstract = wanted["teacher"]
    if is_hugging_face(folder):
        multiple = objective.teacher_model.vocab_multiple
        params = open_folder(folder, vocab_multiple=multiple).params
    else:
        params = tree.flatten(load_params(folder).tree)
    return {"teacher": tree.map_with_path(lambda path, leaf: _placed(path, leaf, params, folder), abstract)}


def _placed(path: str, wanted: jax.ShapeDtypeStruct, params: Any, folder: pathlib.Path) -> jax.Array:
    """A parameter on the devices; those of Hugging Face directories are read slice by slice."""
    found = params.get(path)
    if found is None or tuple(found.shape) != wanted.shape:
        what = "no" if found is None else f"{tuple(found.shape)} and not {wanted.shape} for"
        raise CheckpointError(f"the teacher {folder} has {what} {path}")
    part = found.read if hasattr(found, "read") else found.__getitem__
    make = lambda index: part(index).astype(wanted.dtype)  # noqa: E731
    return jax.make_array_from_callback(wanted.shape, wanted.sharding, make)


def _run_folder(path: pathlib.Path) -> pathlib.Path:
    for folder in (path, path.parent, path.parent.parent):
        if (folder / "run.json").is_file():
            return folder
    raise DataError(
        f"objective.teacher = {str(path)!r} is neither a run directory (or a checkpoint of one) nor a "
        "Hugging Face directory"
    )


def _step_folder(path: pathlib.Path) -> pathlib.Path:
    """The checkpoint that `path` means: itself, or the newest complete one."""
    if steps.is_complete(path):
        return path
    folder = reading.steps_folder(path)
    complete = steps.listing(folder).complete
    if not complete:
        raise CheckpointError(f"the teacher {path} has no complete checkpoint")
    return folder / str(complete[-1])


def _hash(files: list[pathlib.Path]) -> str:
    """Of names, sizes, beginnings and ends: files of weights are too large to be read at every start."""
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as handle:
            digest.update(handle.read(_PART))
            handle.seek(max(size - _PART, 0), os.SEEK_SET)
            digest.update(handle.read(_PART))
    return digest.hexdigest()
