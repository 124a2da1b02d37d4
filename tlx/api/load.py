"""`tlx.load`: reads a trained model from a run directory or a Hugging Face directory."""

import dataclasses
import math
import os
import pathlib
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax

from tlx import parallel
from tlx.adapt.parts import is_trained
from tlx.adapt.transfer import base_hash, base_leaves
from tlx.api.forward import expected_params
from tlx.api.load_elmo import load_elmo
from tlx.api.loaded_model import LoadedModel
from tlx.base import tree
from tlx.base.config import to_dict
from tlx.base.errors import CheckpointError, ConfigError, DataError
from tlx.base.files import storage_errors
from tlx.base.memory import size_text
from tlx.base.nearest_path import suggest_paths
from tlx.base.place import BucketPath, Place, fetched_folder
from tlx.checkpoint import load_params
from tlx.hub import network, sentence_transformers, validation
from tlx.hub.elmo import is_elmo
from tlx.hub.folder import Checkpoint, check_room, is_hugging_face, open_folder
from tlx.hub.place import open_place
from tlx.models.families import TABLE
from tlx.objectives.shared.base import ObjectiveModule
from tlx.parallel import MeshConfig
from tlx.run import RunConfig, base_config
from tlx.run.checks import resolve
from tlx.run.spec import make_module
from tlx.text import Tokenizer, huggingface_tokenizer, load_tokenizer, word_pairs_tokenizer
from tlx.text.huggingface_tokenizer import HuggingFaceTokenizer
from tlx.text.imported_frame import imported_frame
from tlx.text.imported_sentencepiece import LAYOUTS, MODELS, ImportedSentencePiece
from tlx.text.missing_tokenizer import MissingTokenizer
from tlx.training.directory import find_run_folder, read_run

# Rows of a token table are a multiple of it, which the usual meshes divide.
VOCAB_MULTIPLE = 128

# Objective that an imported model is assumed to have been trained with, by kind and by family.
_OBJECTIVES = {
    "encoder": "mlm",
    "decoder": "clm",
    "encoder_decoder": "span_corruption",
    "two_stream": "plm",
}
_OBJECTIVES_OF_FAMILIES = {
    "bart": "bart",
    "mbart": "mbart",
    "marian": "text_to_text",
    "pegasus": "text_to_text",
    "blenderbot": "text_to_text",
    "blenderbot-small": "text_to_text",
    "t5gemma": "text_to_text",
}


def load(
    path: str | os.PathLike | BucketPath,
    step: int | str | None = None,
    dtype: str | None = None,
    allow: Sequence[str] = (),
    ignore: Sequence[str] = (),
    mesh: MeshConfig | None = None,
    base: str | os.PathLike | BucketPath | None = None,
    task: str | None = None,
    params: str = "trained",
) -> LoadedModel:
    """Load the model of a run directory, one of its checkpoint directories, or a Hugging Face directory.

    No other file is needed (except an adapted run's base model), the number of devices may differ from that
    in training, and optimizer state is not read.

    Args:
        path: The directory, of a bucket as gs://BUCKET/RUN or s3://BUCKET/RUN; also one of ELMo's released files
            (hub/elmo.py).
        step: Training step of the checkpoint; "best": the one with the best evaluation, where the run had
            checkpoint.keep_best; None: the newest that verifies.
        dtype: "float32" or "bfloat16" for parameters and computation; None keeps the parameters' own.
        allow: Packages outside tlx whose code the saved config may name ("package.module:attr"). Without it
            no code of the directory is executed.
        ignore: For a Hugging Face directory, keys of config.json and tensors to disregard.
        mesh: Shards the parameters over all devices, MeshConfig(tensor=4) say; None: the default device.
        base: Directory of an adapted run's base model, if it has moved since training.
        task: For a Hugging Face directory whose model has a head, the task that it is read as:
            "pair_classification" for pairs of texts, say; None takes the usual one.
        params: Of a run, the parameters that are loaded: "trained"; "ema", their moving average, of a run with
            train.ema; or "mean:N", the mean of those of this checkpoint and the N - 1 before it.

    Returns:
        The model.

    Raises:
        DataError: there is no run, or its tokenizer is not the one it was trained with.
        CheckpointError: no checkpoint can be read, or it does not fit the config.
        ConfigError: this version cannot build the config.
    """
    _check_choice(params, path)
    with storage_errors():
        place = open_place(path)
        if isinstance(place, BucketPath):
            return _load_run(place, step, dtype, allow, mesh, base, task, params)
    if is_hugging_face(place):
        opened = open_hub_checkpoint(place, dtype, ignore, task)
        return load_hub_checkpoint(opened, mesh)
    if is_elmo(place):
        return load_elmo(place, dtype)
    return _load_run(place, step, dtype, allow, mesh, base, task, params)


def _load_run(
    path: Place,
    step: int | str | None,
    dtype: str | None,
    allow: Sequence[str],
    mesh: MeshConfig | None,
    base: str | os.PathLike | BucketPath | None,
    task: str | None,
    params: str,
) -> LoadedModel:
    """Load the model of a run; see load."""
    if task is not None:
        raise ConfigError(
            f"task = {task!r} is for Hugging Face directories; {path} is a run, which has its own"
        )
    folder = _run_folder(path)
    saved = read_run(folder)
    if saved is None:
        raise DataError(f"{folder} has no run.json")
    tokenizer = load_tokenizer(folder / "tokenizer")
    if tokenizer.hash != saved["tokenizer_hash"]:
        raise DataError(f"{folder / 'tokenizer'} is not the tokenizer that the run was trained with")
    config = resolve(_localized(saved["config"], folder, dtype), allow=tuple(allow))
    source = saved["data"]
    if config.frame is None and "imported_from" in source:
        # Imported before runs kept a frame.
        family = source.get("family", "")
        rules = TABLE.load(family).frame if family in list(TABLE) else None
        frame = imported_frame(tokenizer, config.model.kind, rules)
        config = dataclasses.replace(config, frame=frame)
    stored = "params" if params == "trained" else params
    starts = saved.get("starts", ())
    loaded = load_params(path, step, dtype=dtype, run=saved.get("id"), starts=starts, params=stored)
    module = make_module(config, tokenizer.vocab)
    values = loaded.tree
    if config.adapt.method != "full":
        multiple = config.model.vocab_multiple
        base_model = load_base_model(base or config.base.path, multiple, dtype, allow)
        values = _with_base(values, module, config, tokenizer, base_model)
    _check_params(values, module, config, tokenizer, folder)
    if mesh is None:
        values = jax.device_put(values)
    else:
        values = _shard(values, _shardings(expected_params(module, config, tokenizer), mesh))
    return LoadedModel(config, values, tokenizer, module, loaded.step)


def _check_choice(params: str, path: str | os.PathLike | BucketPath) -> None:
    """Raise ConfigError where `params` of `load` is no choice, or none for this path."""
    if params not in ("trained", "ema") and not re.fullmatch("mean:[1-9][0-9]*", params):
        raise ConfigError(
            f"params = {params!r} must be 'trained', 'ema', or 'mean:N' of the last N checkpoints"
        )
    if params != "trained" and not isinstance(path, BucketPath) and is_hugging_face(path):
        raise ConfigError(
            f"params = {params!r} is for runs; {path} is a Hugging Face directory, which has no steps"
        )


def _with_base(
    params: Any, module: ObjectiveModule, config: RunConfig, tokenizer: Tokenizer, base: LoadedModel
) -> dict[str, Any]:
    """Add the frozen parameters of the base model to the trained ones of an adapted run."""
    base_params = jax.device_get(base.standalone_params)
    if base_hash(base_params) != config.base.hash:
        raise CheckpointError(
            f"the model is adapted from {config.base.path}, whose parameters were others (their sha256 began "
            f"with {config.base.hash[:8]}); give that model as base="
        )
    expected = tree.flatten(parallel.unbox(expected_params(module, config, tokenizer)))
    leaves = base_leaves(base_params, expected, config.objective.name, tokenizer.vocab, config.seed)
    frozen = {
        path: leaves[path] for path in expected if path in leaves and not is_trained(config.adapt, path)
    }
    return tree.unflatten(frozen | tree.flatten(params))


class HubCheckpoint(NamedTuple):
    """A Hugging Face directory, opened as a run; no weights are read yet."""

    checkpoint: Checkpoint
    """Its model config, tensor shapes and weight files."""
    config: RunConfig
    """The model's config with the objective of its family."""
    tokenizer: Tokenizer
    """Its tokenizer."""

    @property
    def num_bytes(self) -> int:
        """Size of all parameters, bytes."""
        leaves = self.checkpoint.params.values()
        return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)


def open_hub_checkpoint(
    folder: pathlib.Path,
    dtype: str | None = None,
    ignore: Sequence[str] = (),
    task: str | None = None,
    vocab_multiple: int = 0,
) -> HubCheckpoint:
    """Read config.json, tokenizer.json and the tensors' shapes, without weights.

    Args:
        folder: The Hugging Face directory, or that of sentence-transformers.
        dtype: "float32" or "bfloat16" for parameters and computation; None keeps the parameters' own.
        ignore: Keys of config.json and tensors to disregard.
        task: Task that a head is read as; None takes the usual one.
        vocab_multiple: The token table has a multiple of this many rows, where those are enough for the
            tokenizer; 0: the least multiple of 128 that is.

    Returns:
        The opened checkpoint. Raises as `tlx.load` does.
    """
    validation.check_links(folder)
    with validation.malformed_is_one_line(f"{folder}: a file of sentence-transformers"):
        sentence = sentence_transformers.read(folder, ignore)
    folder = sentence_transformers.transformer_folder(folder)
    checkpoint = open_folder(folder, ignore, dtype or "float32", vocab_multiple or VOCAB_MULTIPLE, task)
    model = checkpoint.config
    tokenizer = _open_tokenizer(folder, checkpoint.raw, model.vocab_size)
    # A tokenizer with added ids may be larger than the embedding: pad the vocabulary until it fits.
    if model.padded_vocab < tokenizer.vocab.size:
        num_rows = math.ceil(tokenizer.vocab.size / VOCAB_MULTIPLE) * VOCAB_MULTIPLE
        model = dataclasses.replace(model, vocab_multiple=num_rows)
        checkpoint = open_folder(folder, ignore, dtype or "float32", num_rows, task)
    values = _objective_values(checkpoint, tokenizer)
    values["model"] = to_dict(model) | ({} if dtype is None else {"dtype": dtype})
    values["embed"] = to_dict(sentence)
    max_positions = model.position.max_positions or 512
    values["data"]["sequence_length"] = min(512, max_positions)
    rules = checkpoint.family.frame
    with validation.malformed_is_one_line(f"{folder}: config.json or the tokenizer"):
        values["frame"] = to_dict(imported_frame(tokenizer, model.kind, rules, checkpoint.raw))
    # A stand-in until the model is saved: then tokenizer.path names the tokenizer.
    values["tokenizer"]["kind"] = "bytes"
    return HubCheckpoint(checkpoint, resolve(values), tokenizer)


def _objective_values(checkpoint: Checkpoint, tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the default config of the objective of a checkpoint: its head's task, or that of its family."""
    head = checkpoint.task_head
    kind = checkpoint.config.kind
    if head is None:
        by_family = _OBJECTIVES_OF_FAMILIES if kind == "encoder_decoder" else {}
        return base_config(by_family.get(checkpoint.family.name, _OBJECTIVES[kind])).to_dict()
    values = base_config(head.task).to_dict()
    objective = values["objective"]
    objective["head"] = to_dict(head.shape)
    # A directory without a tokenizer has no template.
    objective["frame"] = "tokenizer" if hasattr(tokenizer, "row_frame") else "tlx"
    if head.labels:
        objective["labels"] = head.labels
    if head.kind == "sequence" and head.labels:
        objective["multi_label"] = head.multi_label
        objective["pooling"] = "mean" if head.mean else "token"
    elif head.kind == "sequence":
        # The head's own number, without a scale.
        objective["min_score"] = 0.0
        objective["max_score"] = 1.0
    return values


def _open_tokenizer(folder: pathlib.Path, values: Mapping[str, Any], vocab_size: int) -> Tokenizer:
    """Open tokenizer.json, or a SentencePiece model if there is none; without any file there are only ids."""
    with validation.malformed_is_one_line(f"{folder}: the tokenizer"):
        return _read_tokenizer(folder, values, vocab_size)


def _read_tokenizer(folder: pathlib.Path, values: Mapping[str, Any], vocab_size: int) -> Tokenizer:
    start_id = values.get("decoder_start_token_id")
    layout = values["model_type"]
    has_main_file = (folder / huggingface_tokenizer.MAIN).is_file()
    has_model = any((folder / name).is_file() for name in MODELS)
    if not has_main_file and layout in LAYOUTS and has_model:
        return ImportedSentencePiece.from_folder(folder, layout, start_id)
    if not any((folder / name).is_file() for name in huggingface_tokenizer.KNOWN):
        print(f"{folder}: no tokenizer: the model reads and writes ids, no texts", file=sys.stderr)
        return MissingTokenizer.from_config(vocab_size, values)
    if not has_main_file and layout in word_pairs_tokenizer.LAYOUTS:
        return word_pairs_tokenizer.WordPairsTokenizer.from_folder(folder, layout, start_id)
    return HuggingFaceTokenizer.from_folder(folder, start_id)


def load_base_model(
    path: str | os.PathLike | BucketPath,
    vocab_multiple: int,
    dtype: str | None = None,
    allow: Sequence[str] = (),
) -> LoadedModel:
    """Load the model that a run starts from, with as many rows of the token table as the run has.

    Args:
        path: Directory of a run, or a Hugging Face directory.
        vocab_multiple: As open_hub_checkpoint's; a run has its own number of rows.
        dtype: As `load`'s.
        allow: As `load`'s.

    Returns:
        The model. Raises as `load` does.
    """
    with storage_errors():
        folder = open_place(path)
    if isinstance(folder, pathlib.Path) and is_hugging_face(folder):
        return load_hub_checkpoint(open_hub_checkpoint(folder, dtype, vocab_multiple=vocab_multiple), None)
    return load(folder, dtype=dtype, allow=allow)


def load_hub_checkpoint(opened: HubCheckpoint, mesh: MeshConfig | None) -> LoadedModel:
    """Print the size and check that it fits in memory before any weight is read."""
    checkpoint, config, tokenizer = opened
    folder = checkpoint.folder
    size = opened.num_bytes
    print(f"{folder}: {checkpoint.num_params:,} parameters, {size_text(size)}", file=sys.stderr)
    if mesh is None:
        check_room(size, str(folder))
        params = jax.device_put(checkpoint.read(progress=True))
    else:
        boxed = network.boxed_params(checkpoint.config, checkpoint.heads, checkpoint.task_head)
        params = checkpoint.read(_shardings(boxed, mesh), progress=True)
    return LoadedModel(config, params, tokenizer, make_module(config, tokenizer.vocab), 0)


def _shardings(boxed: Any, mesh: MeshConfig) -> dict[str, Any]:
    """Return {path: sharding} over all devices."""
    return tree.flatten(parallel.param_shardings(boxed, parallel.make_mesh(mesh), parallel.rules(mesh)))


def _shard(params: Any, shardings: dict[str, Any]) -> Any:
    """Shard the parameters; heads of other objectives, which have no sharding, are replicated."""
    mesh = next(iter(shardings.values())).mesh
    replicated = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())

    def shard_leaf(path: str, leaf: Any) -> jax.Array:
        # By callback, so that each device receives its own shard only.
        return jax.make_array_from_callback(leaf.shape, shardings.get(path, replicated), leaf.__getitem__)

    return tree.map_with_path(shard_leaf, params)


def _run_folder(path: Place) -> Place:
    """Return the run directory that `path` is, or is a checkpoint of."""
    folder = find_run_folder(path)
    if folder is not None:
        return folder
    if isinstance(path, pathlib.Path) and not path.is_dir():
        hint = suggest_paths(path, _is_model)
        raise DataError(
            f"{path} is not there; give a run directory, which holds run.json and checkpoints/; {hint}"
        )
    raise DataError(f"{path} is neither a run directory (it has no run.json) nor a checkpoint of one")


def _is_model(path: pathlib.Path) -> bool:
    """Return whether a path is a directory that `load` takes."""
    return (path / "run.json").is_file() or is_hugging_face(path) or is_elmo(path)


def _localized(values: dict[str, Any], folder: Place, dtype: str | None) -> dict[str, Any]:
    """Replace the values of a saved config that belong to the machine that trained it."""
    values = dict(values)
    if values.get("tokenizer", {}).get("path") is not None:
        values["tokenizer"] = values["tokenizer"] | {"path": str(fetched_folder(folder / "tokenizer"))}
    model = values.get("model", {})
    values["model"] = model | {"execution": {**model.get("execution", {}), "attention": "auto"}}
    if dtype is not None:
        values["model"] |= {"dtype": dtype}
    return values


def _check_params(
    params: Any, module: ObjectiveModule, config: RunConfig, tokenizer: Tokenizer, folder: Place
) -> None:
    """Raise CheckpointError listing parameters whose path or shape is not the module's.

    An imported model may have heads of other objectives, and lack this one's.
    """
    expected = tree.flatten(parallel.unbox(expected_params(module, config, tokenizer)))
    actual = tree.flatten(params)
    mismatches = []
    for path in sorted({*actual, *expected}):
        is_missing = path not in actual or path not in expected
        if path.startswith("heads/") and is_missing:
            continue
        if is_missing or actual[path].shape != expected[path].shape:
            mismatches.append(
                f"  {path}: checkpoint {actual[path].shape if path in actual else 'none'}, "
                f"model {expected[path].shape if path in expected else 'none'}"
            )
    if mismatches:
        lines = "\n".join(mismatches[:20] + (["  ..."] if len(mismatches) > 20 else []))
        raise CheckpointError(f"the checkpoint does not fit {folder / 'run.json'}:\n{lines}")
