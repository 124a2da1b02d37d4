"""Frozen models that another one learns from: opened by path, their parameters read sharded.

An objective's config that has such a model has three fields for it, by a name of NAMES: `teacher`, its path;
`teacher_model`, its architecture; `teacher_hash`, the hash of its weights. The last two are read when a run starts.
Of a model that is used with its head there is a fourth, `reward_run_task`: its own objective. Such a model is a run,
and may have a tokenizer of its own. `teacher_frame` is the form of a teacher's texts, where a config has it.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
from typing import Any, NamedTuple, TypeGuard

import jax

from tlx.base import tree
from tlx.base.config import from_dict
from tlx.base.errors import CheckpointError, ConfigError, DataError
from tlx.base.place import Place
from tlx.checkpoint import load_params, reading, steps
from tlx.hub.folder import is_hugging_face, open_folder
from tlx.hub.place import open_place
from tlx.models.config import ModelConfig
from tlx.text import load_tokenizer
from tlx.text.frames import Frame
from tlx.training.directory import find_run_folder, read_run

NAMES = ("teacher", "reference", "reward_run")
"""Names of frozen models in configs and in the frozen part of a state."""

WITH_HEAD = ("reward_run",)
"""Those that are used with the head that they were trained with."""

_HASHED_BYTES = 1 << 20  # bytes of each end of a weights file that its hash covers


class Teacher(NamedTuple):
    """Description of a teacher, read before its parameters."""

    model: ModelConfig
    """Its architecture."""
    hash: str
    """sha256 of its parameters: of the newest checkpoint's manifest where it is a run."""
    task: str = ""
    """Its own objective as run.json has it, JSON that a config can hold; "" for a Hugging Face directory."""
    frame: Frame | None = None
    """Form of the texts that it was trained with before its own run; None for a Hugging Face directory."""


def open_teacher(path: str, name: str = "teacher") -> Teacher:
    """Open a frozen model, `name` in messages: a run directory, one of its checkpoints, or a Hugging Face directory.

    The name is that of its key, "reference" for objective.reference or "distill.teacher". Raises DataError where
    there is none, and what the readers of these directories raise.
    """
    folder = open_place(path)
    if _is_hugging_face(folder):
        files = sorted(folder.glob("*.safetensors"))
        return Teacher(open_folder(folder).config, _hash([folder / "config.json", *files]))
    run_folder, run = _read_teacher_run(folder, name)
    model = from_dict(ModelConfig, run["config"]["model"], f"{name}.model")
    if not model.vocab_size:
        tokenizer = load_tokenizer(run_folder / "tokenizer")
        model = dataclasses.replace(model, vocab_size=tokenizer.vocab.size)
    if model.adapters.any:
        raise ConfigError(
            f"{_key(name)} = {path!r} holds adapters alone and not its base model; tlx convert merge makes a run "
            "with a LoRA added to the matrices"
        )
    # The manifest holds the sums of all files, so that its own identifies the weights without reading them.
    task = json.dumps(run["config"]["objective"], sort_keys=True)
    manifest = (_step_folder(folder) / steps.MANIFEST).read_bytes()
    frame = run["config"].get("frame")
    frame = None if frame is None else from_dict(Frame, frame, f"{name}.frame")
    return Teacher(model, hashlib.sha256(manifest).hexdigest(), task, frame)


def with_frozen_models(objective: Any) -> Any:
    """Fill in a config what its frozen models are, where it names some that were not opened yet.

    The config is an objective's, or another group of a run's, whose name is then its `config_group`.
    """
    for name, path in _named(objective):
        if not getattr(objective, f"{name}_hash"):
            opened = open_teacher(path, _field(objective, name))
            changes: dict[str, Any] = {f"{name}_model": opened.model, f"{name}_hash": opened.hash}
            if name in WITH_HEAD:
                changes[f"{name}_task"] = _task_of(opened, path, name)
            elif hasattr(objective, f"{name}_task"):
                changes |= {f"{name}_task": opened.task, f"{name}_frame": opened.frame}
            objective = dataclasses.replace(objective, **changes)
    return objective


def check_tokenizer(objective: Any, tokenizer_hash: str) -> None:
    """Raise ConfigError where a frozen model is a run with another tokenizer: same ids, other pieces."""
    for name, path in _named(objective):
        folder = open_place(path)
        # A model that is read through its texts may have a tokenizer of its own; values read the policy's ids.
        reads_texts = name in WITH_HEAD and getattr(objective, "value_start", "") != name
        if _is_hugging_face(folder) or reads_texts:
            continue
        field = _field(objective, name)
        run_folder, run = _read_teacher_run(folder, field)
        if run["tokenizer_hash"] != tokenizer_hash:
            raise ConfigError(
                f"{field} = {path!r} has another tokenizer than this run; take its own with "
                f"tokenizer.path = {str(run_folder / 'tokenizer')!r}"
            )


def read_frozen(objective: Any, wanted: Any) -> Any:
    """Read the parameters of the frozen models of a run with this objective.

    Args:
        objective: Its config.
        wanted: Abstract arrays with shardings, {} or {"teacher": ...}, by names of NAMES.

    Returns:
        Arrays in the structure of `wanted`.

    Raises:
        ConfigError: A model is not the one that the config was resolved with.
        CheckpointError: It lacks a wanted parameter.
    """
    return {name: _read_model(objective, name, wanted[name]) for name in NAMES if name in wanted}


def _task_of(opened: Teacher, path: str, name: str) -> str:
    """Return the objective of a model that is used with its head; ConfigError where it is not known."""
    if not opened.task:
        raise ConfigError(
            f"objective.{name} = {path!r} is a Hugging Face directory, whose head is not known here; tlx convert "
            "import makes a run of it"
        )
    return opened.task


def _field(objective: Any, name: str) -> str:
    """Return the key of a frozen model in a run's config."""
    return f"{getattr(objective, 'config_group', 'objective')}.{name}"


def _key(name: str) -> str:
    """Return a key with its group, which is the objective's where it has none."""
    return name if "." in name else f"objective.{name}"


def _named(objective: Any) -> list[tuple[str, str]]:
    """Return (name, path) of the frozen models that a config names."""
    return [(name, path) for name in NAMES if (path := getattr(objective, name, ""))]


def _read_model(objective: Any, name: str, wanted: Any) -> Any:
    """Return the parameters of one frozen model, arrays in the structure of `wanted`."""
    path = getattr(objective, name)
    field = _field(objective, name)
    if not path:
        raise ConfigError(f"{field} is empty: name a run directory or a Hugging Face directory")
    folder = open_place(path)
    # The loss depends on every weight of it: with other ones the run would silently become another.
    if open_teacher(path, field).hash != getattr(objective, f"{name}_hash"):
        raise ConfigError(
            f"{field} = {path!r} has other weights than when this run started; name "
            "the checkpoint that it had (RUN/checkpoints/STEP), or start a new run"
        )
    # A large model of Hugging Face is never read whole: each device's slice comes from the file.
    if _is_hugging_face(folder):
        multiple = getattr(objective, f"{name}_model").vocab_multiple
        table = tree.flatten(wanted).get("model/embedding/table")
        # As many rows as the run's own table, whose padding may be another.
        params = open_folder(folder, vocab_multiple=table.shape[0] if table is not None else multiple).params
    else:
        params = tree.flatten(load_params(folder).tree)

    def read(path: str, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        return _read_sharded(path, leaf, params, folder)

    return tree.map_with_path(read, wanted)


def _read_sharded(path: str, wanted: jax.ShapeDtypeStruct, params: Any, folder: Place) -> jax.Array:
    """Return a parameter sharded as wanted; of a Hugging Face directory each device's slice is read alone."""
    stored = params.get(path)
    if stored is None or tuple(stored.shape) != wanted.shape:
        what = "no" if stored is None else f"{tuple(stored.shape)} and not {wanted.shape} for"
        raise CheckpointError(f"the teacher {folder} has {what} {path}")
    read_slice = stored.read if hasattr(stored, "read") else stored.__getitem__

    def read(index: tuple[slice, ...] | None) -> Any:
        return read_slice(index).astype(wanted.dtype)

    return jax.make_array_from_callback(wanted.shape, wanted.sharding, read)


def _read_teacher_run(path: Place, name: str) -> tuple[Place, dict[str, Any]]:
    """Return the run directory that `path` is, or is a checkpoint of, and its run.json."""
    folder = find_run_folder(path)
    run = None if folder is None else read_run(folder)
    if folder is None or run is None:
        raise DataError(
            f"{_key(name)} = {str(path)!r} is neither a run directory (or a checkpoint of one) nor a "
            "Hugging Face directory"
        )
    return folder, run


def _step_folder(path: Place) -> Place:
    """Return the checkpoint that `path` means: itself, or the newest complete one."""
    if steps.is_complete(path):
        return path
    folder = reading.steps_folder(path)
    complete = steps.listing(folder).complete
    if not complete:
        raise CheckpointError(f"the teacher {path} has no complete checkpoint")
    return folder / str(complete[-1])


def _is_hugging_face(place: Place) -> TypeGuard[pathlib.Path]:
    """Return whether a place is a Hugging Face directory; those of buckets were fetched."""
    return isinstance(place, pathlib.Path) and is_hugging_face(place)


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
