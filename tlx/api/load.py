"""`tlx.load`: reads a trained model from a run directory or a Hugging Face directory."""

import contextlib
import dataclasses
import functools
import math
import os
import pathlib
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tlx import parallel
from tlx.adapt.config import AdaptConfig
from tlx.adapt.parts import is_trained, split
from tlx.adapt.transfer import base_hash, base_leaves
from tlx.api.forward import expected_params
from tlx.api.load_elmo import load_elmo
from tlx.api.load_size import print_size, size_line, sizes_by_type
from tlx.api.loaded_model import LoadedModel
from tlx.base import tree
from tlx.base.config import to_dict
from tlx.base.errors import CheckpointError, ConfigError, DataError
from tlx.base.files import storage_errors
from tlx.base.nearest_path import suggest_paths
from tlx.base.place import BucketPath, Place, fetched_folder
from tlx.base.tree import is_quantized
from tlx.checkpoint import StoredParam, load_params, open_params
from tlx.hub import network, sentence_transformers, validation
from tlx.hub.elmo import is_elmo
from tlx.hub.folder import STORED, Checkpoint, check_room, is_hugging_face, open_folder
from tlx.hub.place import open_place
from tlx.hub.to_devices import to_devices, to_host
from tlx.hub.weights import Index, LazyTensor, lazy_tensor
from tlx.models.families import TABLE
from tlx.nn import weight_formats
from tlx.nn.weight_formats import array_formats, quantized_shapes
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

# The size of a run of more bytes is printed before it is read.
_LARGE = 2**30

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
    weights: str | None = None,
) -> LoadedModel:
    """Load the model of a run directory, one of its checkpoint directories, or a Hugging Face directory.

    No other file is needed (except an adapted run's base model), the number of devices may differ from that
    in training, and optimizer state is not read.

    Args:
        path: The directory, of a bucket as gs://BUCKET/RUN or s3://BUCKET/RUN, of the Hub as hf://OWNER/NAME or
            hf://OWNER/NAME@REVISION (hub/download.py); also one of ELMo's released files
            (hub/elmo.py).
        step: Training step of the checkpoint; "best": the one with the best evaluation, where the run had
            checkpoint.keep_best; None: the newest that verifies.
        dtype: "float32" or "bfloat16" for parameters and computation; None keeps the parameters' own, those of a
            Hugging Face directory as its files have them.
        allow: Packages outside tlx whose code the saved config may name ("package.module:attr"). Without it
            no code of the directory is executed.
        ignore: For a Hugging Face directory, keys of config.json and tensors to disregard.
        mesh: Shards the parameters over all devices, MeshConfig(tensor=4) say; None: the default device.
        base: Directory of an adapted run's base model, if it has moved since training.
        task: For a Hugging Face directory whose model has a head, the task that it is read as:
            "pair_classification" for pairs of texts, say; None takes the usual one.
        params: Of a run, the parameters that are loaded: "trained"; "ema", their moving average, of a run with
            train.ema; or "mean:N", the mean of those of this checkpoint and the N - 1 before it.
        weights: "int8", "int4" or "nf4": matrices are kept in so many bits and dequantised where they are used
            (nn/weight_formats.py); the model can be used, and not trained or exported. None keeps them in full.

    Returns:
        The model.

    Raises:
        DataError: there is no run, or its tokenizer is not the one it was trained with.
        CheckpointError: no checkpoint can be read, or it does not fit the config.
        ConfigError: this version cannot build the config.
    """
    _check_choice(params, path)
    weight_formats.check(weights, "weights")
    with storage_errors():
        place = open_place(path)
    is_local = not isinstance(place, BucketPath)
    if is_local and is_hugging_face(place):
        opened = open_hub_checkpoint(place, dtype, ignore, task, param_dtype=dtype or STORED)
        return load_hub_checkpoint(opened, mesh, weights)
    if is_local and is_elmo(place):
        if weights is not None:
            raise ConfigError(
                f"weights = {weights!r}: ELMo's layers are recurrent, and none can be quantised"
            )
        return load_elmo(place, dtype)
    if task is not None:
        raise ConfigError(
            f"task = {task!r} is for Hugging Face directories; {path} is a run, which has its own"
        )
    with storage_errors() if not is_local else contextlib.nullcontext():
        return _load_run(place, step, dtype, allow, mesh, base, params, weights)


def _load_run(
    path: Place,
    step: int | str | None,
    dtype: str | None,
    allow: Sequence[str],
    mesh: MeshConfig | None,
    base: str | os.PathLike | BucketPath | None,
    params: str,
    weights: str | None,
) -> LoadedModel:
    """Load the model of a run; see load."""
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
    module = make_module(config, tokenizer.vocab)
    boxed = expected_params(module, config, tokenizer)
    name = _weights_of_run(config, weights)
    shapes = tree.flatten(parallel.unbox(boxed))
    sizes = sizes_by_type(shapes, array_formats(boxed, name))
    if name or sum(sizes.values()) > _LARGE:
        print_size(str(folder), size_line(tree.num_params(shapes), sizes, config.model.dtype))
    # A mean is of parameters that are all read, and those of an adapted run are few.
    is_streamed = name and config.adapt.method == "full" and not params.startswith("mean:")
    read = open_params if is_streamed else load_params
    loaded = read(path, step, dtype=dtype, run=saved.get("id"), starts=starts, params=stored)
    values = loaded.tree
    if config.adapt.method != "full":
        base_model = load_base_model(
            base or config.base.path, config.model.vocab_multiple, allow, config.adapt
        )
        values = _with_base(values, boxed, config, tokenizer, base_model, dtype)
    _check_params(values, boxed, folder)
    is_kept = functools.partial(_is_kept, config, _changed_by_standalone(module, values) if name else set())
    shardings = None if mesh is None else _shardings(quantized_shapes(boxed, name, is_kept), mesh, values)
    values = to_devices(_lazy_leaves(values), array_formats(boxed, name, is_kept), shardings)
    return LoadedModel(config, values, tokenizer, module, loaded.step)


def _lazy_leaves(values: Any) -> dict[str, Any]:
    """Return {path: LazyTensor, or StoredMatrix} of parameters, of which those in files are read one at a time."""
    latest: dict[str, np.ndarray] = {}

    def read(path: str, param: StoredParam, index: Index) -> np.ndarray:
        # Slices of a parameter are asked for one after the other, and Orbax reads it whole.
        if path not in latest:
            latest.clear()
            latest[path] = param.read()
        return latest[path][index]

    leaves = {}
    for path, leaf in tree.flatten(values, is_quantized).items():
        if isinstance(leaf, StoredParam):
            leaves[path] = LazyTensor(leaf.shape, leaf.dtype, functools.partial(read, path, leaf))
        else:
            leaves[path] = leaf if is_quantized(leaf) else lazy_tensor(np.asarray(leaf))
    return leaves


def _weights_of_run(config: RunConfig, weights: str | None) -> str:
    """Return the format in which the matrices of a run are loaded, "" for none; ConfigError where it cannot be."""
    of_base = config.adapt.base_weights
    if of_base and weights is not None and weights != of_base:
        raise ConfigError(
            f"weights = {weights!r}: the run was trained on a base in {of_base} (adapt.base_weights), and is used "
            "with it; leave weights out, or merge the run first: tlx convert merge"
        )
    if weights is not None and config.model.quantization.bits:
        raise ConfigError(
            f"weights = {weights!r}: model.quantization.bits = {config.model.quantization.bits}: the model was "
            "trained to be quantised in its own way; leave weights out"
        )
    name = of_base or weights or ""
    weight_formats.check(name, "adapt.base_weights" if of_base else "weights")
    return name


def _is_kept(config: RunConfig, changed: set[str], path: str) -> bool:
    """Return whether a parameter is not quantised: one that is trained on a quantised base, or changed in use."""
    return path in changed or bool(config.adapt.base_weights and is_trained(config.adapt, path))


def _changed_by_standalone(module: ObjectiveModule, values: Any) -> set[str]:
    """Return the paths of parameters of which `standalone` makes others: it takes arrays."""
    # In place of a parameter that is still in a file, zeros that take no memory.
    before = {
        path: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape) if isinstance(leaf, StoredParam) else leaf
        for path, leaf in tree.flatten(values, is_quantized).items()
    }
    after = tree.flatten(module.standalone(tree.unflatten(before)), is_quantized)
    return {path for path, leaf in before.items() if after.get(path) is not leaf}


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


class LoadedBase(NamedTuple):
    """A model that a run starts from."""

    model: LoadedModel
    """The model, its parameters in host memory: the complete language model, quantised where the run wants it so."""
    hash: str
    """sha256 of its parameters before they are quantised."""


def _with_base(
    params: Any, boxed: Any, config: RunConfig, tokenizer: Tokenizer, base: LoadedBase, dtype: str | None
) -> dict[str, Any]:
    """Add the frozen parameters of the base model to the trained ones of an adapted run.

    Args:
        params: Trained parameters of the run.
        boxed: Abstract parameters of its module, in boxes.
        config: Its config.
        tokenizer: Its tokenizer.
        base: The base model, quantised as the run has it.
        dtype: Dtype of parameters that are not quantised; None: the base model's.

    Returns:
        All parameters. Raises CheckpointError where the base model is another one.
    """
    if base.hash != config.base.hash:
        raise CheckpointError(
            f"the model is adapted from {config.base.path}, whose parameters were others (their sha256 began "
            f"with {config.base.hash[:8]}); give that model as base="
        )
    _, frozen = split(config.adapt, boxed)
    wanted = parallel.unbox(quantized_shapes(frozen, config.adapt.base_weights))
    shapes = tree.flatten(parallel.unbox(boxed)) | tree.flatten(wanted)
    leaves = base_leaves(base.model.params, shapes, config.objective.name, tokenizer.vocab, config.seed)
    values = {}
    for path, like in tree.flatten(wanted, is_quantized).items():
        if is_quantized(like):
            values[path] = like.replace(qvalue=leaves[f"{path}/qvalue"], scale=leaves[f"{path}/scale"])
        elif path in leaves:
            values[path] = np.asarray(leaves[path], dtype and jnp.dtype(dtype))
    return tree.unflatten(values | tree.flatten(params))


class HubCheckpoint(NamedTuple):
    """A Hugging Face directory, opened as a run; no weights are read yet."""

    checkpoint: Checkpoint
    """Its model config, tensor shapes and weight files."""
    config: RunConfig
    """The model's config with the objective of its family."""
    tokenizer: Tokenizer
    """Its tokenizer."""

    @property
    def boxed_params(self) -> Any:
        """Abstract parameters in boxes with their logical names."""
        checkpoint = self.checkpoint
        return network.boxed_params(checkpoint.config, checkpoint.heads, checkpoint.task_head)


def open_hub_checkpoint(
    folder: pathlib.Path,
    dtype: str | None = None,
    ignore: Sequence[str] = (),
    task: str | None = None,
    vocab_multiple: int = 0,
    param_dtype: str = "",
) -> HubCheckpoint:
    """Read config.json, tokenizer.json and the tensors' shapes, without weights.

    Args:
        folder: The Hugging Face directory, or that of sentence-transformers.
        dtype: "float32" or "bfloat16" for computation; None leaves the choice to model.dtype.
        ignore: Keys of config.json and tensors to disregard.
        task: Task that a head is read as; None takes the usual one.
        vocab_multiple: The token table has a multiple of this many rows, where those are enough for the
            tokenizer; 0: the least multiple of 128 that is.
        param_dtype: Dtype of the parameters, or STORED; empty: `dtype`, and float32 where that is None, as training
            needs it.

    Returns:
        The opened checkpoint. Raises as `tlx.load` does.
    """
    validation.check_links(folder)
    with validation.malformed_is_one_line(f"{folder}: a file of sentence-transformers"):
        sentence = sentence_transformers.read(folder, ignore)
    folder = sentence_transformers.transformer_folder(folder)
    param_dtype = param_dtype or dtype or "float32"
    checkpoint = open_folder(folder, ignore, param_dtype, vocab_multiple or VOCAB_MULTIPLE, task)
    model = checkpoint.config
    tokenizer = _open_tokenizer(folder, checkpoint.raw, model.vocab_size)
    # A tokenizer with added ids may be larger than the embedding: pad the vocabulary until it fits.
    if model.padded_vocab < tokenizer.vocab.size:
        num_rows = math.ceil(tokenizer.vocab.size / VOCAB_MULTIPLE) * VOCAB_MULTIPLE
        model = dataclasses.replace(model, vocab_multiple=num_rows)
        checkpoint = open_folder(folder, ignore, param_dtype, num_rows, task)
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
    allow: Sequence[str] = (),
    adapt: AdaptConfig | None = None,
) -> LoadedBase:
    """Load the model that a run starts from, with as many rows of the token table as the run has.

    Args:
        path: Directory of a run, or a Hugging Face directory.
        vocab_multiple: As open_hub_checkpoint's; a run has its own number of rows.
        allow: As `load`'s.
        adapt: How the run adapts it; with adapt.base_weights, what is not trained is quantised as it is read.

    Returns:
        The model and its hash. Raises as `load` does.
    """
    with storage_errors():
        folder = open_place(path)
    adapt = AdaptConfig() if adapt is None else adapt
    name = "" if adapt.method == "full" else adapt.base_weights
    weight_formats.check(name, "adapt.base_weights")
    # Parameters in host memory are moved to the devices by whoever needs them, in their own sharding.
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        if isinstance(folder, pathlib.Path) and is_hugging_face(folder):
            opened = open_hub_checkpoint(folder, vocab_multiple=vocab_multiple)
            if name:
                return _quantized_base(opened, name, adapt)
            model = load_hub_checkpoint(opened, None)
        else:
            model = load(folder, allow=allow)
        params = jax.device_get(weight_formats.dequantized_tree(model.standalone_params))
    digest = base_hash(params)
    if name:
        leaves = {path: lazy_tensor(leaf) for path, leaf in tree.flatten(params).items()}
        boxed = expected_params(model.module, model.config, model.tokenizer)
        params = to_host(leaves, array_formats(boxed, name, functools.partial(is_trained, adapt)))
    return LoadedBase(dataclasses.replace(model, params=params), digest)


def _quantized_base(opened: HubCheckpoint, name: str, adapt: AdaptConfig) -> LoadedBase:
    """Load a base model tensor by tensor: once for the hash of its parameters, once to quantise them."""
    checkpoint, config, tokenizer = opened
    formats = array_formats(opened.boxed_params, name, functools.partial(is_trained, adapt))
    sizes = sizes_by_type(checkpoint.params, formats)
    print_size(str(checkpoint.folder), size_line(checkpoint.num_params, sizes, config.model.dtype))
    digest = base_hash(tree.unflatten(checkpoint.params))
    params = to_host(checkpoint.params, formats, progress=True)
    return LoadedBase(LoadedModel(config, params, tokenizer, make_module(config, tokenizer.vocab), 0), digest)


def load_hub_checkpoint(
    opened: HubCheckpoint, mesh: MeshConfig | None, weights: str | None = None
) -> LoadedModel:
    """Read the weights of an opened directory, after its size is printed and checked against the free memory.

    Args:
        opened: The opened directory.
        mesh: As `load`'s.
        weights: As `load`'s.

    Returns:
        The model. Raises DeviceMemoryError, an error with both numbers, where it does not fit.
    """
    checkpoint, config, tokenizer = opened
    boxed = opened.boxed_params
    formats = array_formats(boxed, weights)
    sizes = sizes_by_type(checkpoint.params, formats)
    print_size(str(checkpoint.folder), size_line(checkpoint.num_params, sizes, config.model.dtype))
    shardings = None
    if mesh is None:
        check_room(sum(sizes.values()), str(checkpoint.folder))
    else:
        shardings = _shardings(quantized_shapes(boxed, weights), mesh, {})
    params = to_devices(checkpoint.params, formats, shardings, progress=True)
    return LoadedModel(config, params, tokenizer, make_module(config, tokenizer.vocab), 0)


def _shardings(boxed: Any, mesh: MeshConfig, params: Any) -> dict[str, Any]:
    """Return {path: sharding} over all devices; other leaves of `params`, of unused heads, are replicated."""
    device_mesh = parallel.make_mesh(mesh)
    shardings = tree.flatten(parallel.param_shardings(boxed, device_mesh, parallel.rules(mesh)), is_quantized)
    replicated = jax.sharding.NamedSharding(device_mesh, jax.sharding.PartitionSpec())
    return dict.fromkeys(tree.flatten(params, is_quantized), replicated) | shardings


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


def _check_params(params: Any, boxed: Any, folder: Place) -> None:
    """Raise CheckpointError listing parameters whose path or shape is not the module's.

    An imported model may have heads of other objectives, and lack this one's.
    """
    expected = tree.flatten(parallel.unbox(boxed))
    actual = tree.flatten(params, is_quantized)
    mismatches = []
    for path in sorted({*actual, *expected}):
        is_missing = path not in actual or path not in expected
        # What is distilled from layers is mapped to their width in training alone.
        if path.startswith(("heads/", "distillation/")) and is_missing:
            continue
        if is_missing or actual[path].shape != expected[path].shape:
            mismatches.append(
                f"  {path}: checkpoint {actual[path].shape if path in actual else 'none'}, "
                f"model {expected[path].shape if path in expected else 'none'}"
            )
    if mismatches:
        lines = "\n".join(mismatches[:20] + (["  ..."] if len(mismatches) > 20 else []))
        raise CheckpointError(f"the checkpoint does not fit {folder / 'run.json'}:\n{lines}")
