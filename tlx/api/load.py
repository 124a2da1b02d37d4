"""`tlx.load`: a model and all it needs, from a run directory or a Hugging Face directory alone."""

import dataclasses
import math
import os
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax

from tlx import parallel
from tlx.adapt.parts import is_trained
from tlx.adapt.transfer import base_hash, base_leaves
from tlx.api.forward import expected_params
from tlx.api.loaded_model import LoadedModel
from tlx.base import tree
from tlx.base.config import to_dict
from tlx.base.errors import CheckpointError, DataError
from tlx.checkpoint import load_params
from tlx.hub import network
from tlx.hub.folder import Checkpoint, check_room, is_hugging_face, open_folder
from tlx.objectives.shared.base import ObjectiveModule
from tlx.parallel import MeshConfig
from tlx.run import RunConfig, base_config
from tlx.run.checks import resolve
from tlx.run.spec import make_module
from tlx.text import Tokenizer, huggingface_tokenizer, load_tokenizer
from tlx.text.huggingface_tokenizer import HuggingFaceTokenizer
from tlx.text.imported_sentencepiece import LAYOUTS, MODELS, ImportedSentencePiece
from tlx.training.directory import find_run_folder, read_run

# What a model from elsewhere is taken to have been trained with.
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
}


def load(
    path: str | os.PathLike,
    step: int | None = None,
    dtype: str | None = None,
    allow: Sequence[str] = (),
    ignore: Sequence[str] = (),
    mesh: MeshConfig | None = None,
    base: str | os.PathLike | None = None,
) -> LoadedModel:
    """The model of a run directory, of one of its checkpoint directories, or of a Hugging Face directory.

    step: which checkpoint; None for the newest that verifies. dtype: "float32" or "bfloat16" for
    parameters and computation; None keeps the parameters' own. allow: packages outside tlx whose code the
    saved config may name ("package.module:attr"); without it nothing of the directory is executed.
    ignore: for a Hugging Face directory, keys of config.json and tensors that shall not matter.
    mesh: spreads the parameters over all devices, MeshConfig(tensor=4) say; each gets its own part only.
    base: where the model is that an adapted run keeps as it is, if no longer where it was.
    Needs no other file (but an adapted run its base) and any number of devices; reads parameters only.
    Raises DataError where there is no run, CheckpointError where no checkpoint can be read or it does not
    fit the config, ConfigError for a config that this version cannot build.
    """
    if is_hugging_face(path):
        return _load_hub_checkpoint(pathlib.Path(path).absolute(), dtype, ignore, mesh)
    folder = _run_folder(pathlib.Path(path).absolute())
    saved = read_run(folder)
    tokenizer = load_tokenizer(folder / "tokenizer")
    if tokenizer.hash != saved["tokenizer_hash"]:
        raise DataError(f"{folder / 'tokenizer'} is not the tokenizer that the run was trained with")
    config = resolve(_here(saved["config"], folder, dtype), allow=tuple(allow))
    loaded = load_params(path, step, dtype=dtype)
    module, params = make_module(config, tokenizer.vocab), loaded.tree
    if config.adapt.method != "full":
        known = load(base or config.base.path, dtype=dtype, allow=allow)
        params = _with_base(params, module, config, tokenizer, known)
    _check_params(params, module, config, tokenizer, folder)
    if mesh is None:
        params = jax.device_put(params)
    else:
        params = _placed(params, _shardings(expected_params(module, config, tokenizer), mesh))
    return LoadedModel(config, params, tokenizer, module, loaded.step)


def _with_base(
    params: Any, module: ObjectiveModule, config: RunConfig, tokenizer: Tokenizer, base: LoadedModel
) -> dict[str, Any]:
    """The whole parameters of an adapted run, which holds only what was trained."""
    theirs = jax.device_get(base.standalone_params)
    if base_hash(theirs) != config.base.hash:
        raise CheckpointError(
            f"the model is adapted from {config.base.path}, whose parameters were others (their sha256 began "
            f"with {config.base.hash[:8]}); give that model as base="
        )
    wanted = tree.flatten(parallel.unbox(expected_params(module, config, tokenizer)))
    known = base_leaves(theirs, wanted, config.objective.name, tokenizer.vocab, config.seed)
    kept = {path: known[path] for path in wanted if path in known and not is_trained(config.adapt, path)}
    return tree.unflatten(kept | tree.flatten(params))


class HubCheckpoint(NamedTuple):
    """A Hugging Face directory in the terms of a run; no weight is read yet."""

    checkpoint: Checkpoint
    config: RunConfig
    tokenizer: Tokenizer

    @property
    def num_bytes(self) -> int:
        """Of all parameters."""
        leaves = self.checkpoint.params.values()
        return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)


def open_hub_checkpoint(
    folder: pathlib.Path, dtype: str | None = None, ignore: Sequence[str] = ()
) -> HubCheckpoint:
    """Reads config.json, tokenizer.json and the tensors' shapes; raises as `tlx.load`."""
    checkpoint = open_folder(folder, ignore, dtype or "float32")
    tokenizer = _open_tokenizer(folder, checkpoint.raw)
    model = checkpoint.config
    while model.padded_vocab < tokenizer.vocab.size and model.vocab_multiple < 2**20:
        model = dataclasses.replace(model, vocab_multiple=2 * model.vocab_multiple)
    if model != checkpoint.config:
        checkpoint = open_folder(folder, ignore, dtype or "float32", model.vocab_multiple)
    objective = _OBJECTIVES_OF_FAMILIES.get(checkpoint.family.name, _OBJECTIVES[model.kind])
    values = base_config(objective).to_dict()
    values["model"] = to_dict(model) | ({} if dtype is None else {"dtype": dtype})
    longest = model.position.max_positions or 512
    values["data"]["sequence_length"] = min(512, longest)
    values["tokenizer"]["kind"] = "bytes"  # until it is saved: then tokenizer.path says which
    return HubCheckpoint(checkpoint, resolve(values), tokenizer)


def _open_tokenizer(folder: pathlib.Path, values: Mapping[str, Any]) -> Tokenizer:
    """Of tokenizer.json, or of a SentencePiece model where there is none."""
    start, layout = values.get("decoder_start_token_id"), values["model_type"]
    alone = not (folder / huggingface_tokenizer.MAIN).is_file()
    if alone and layout in LAYOUTS and any((folder / name).is_file() for name in MODELS):
        return ImportedSentencePiece.from_folder(folder, layout, start)
    return HuggingFaceTokenizer.from_folder(folder, start)


def _load_hub_checkpoint(
    folder: pathlib.Path, dtype: str | None, ignore: Sequence[str], mesh: MeshConfig | None
) -> LoadedModel:
    """Says the size first, and whether there is room."""
    checkpoint, config, tokenizer = foreign = open_hub_checkpoint(folder, dtype, ignore)
    size = foreign.num_bytes
    print(f"{folder}: {checkpoint.num_params:,} parameters, {size / 1e9:.2f} GB", file=sys.stderr)
    if mesh is None:
        check_room(size, str(folder))
        params = jax.device_put(checkpoint.read(progress=True))
    else:
        boxed = network.boxed_params(checkpoint.config, checkpoint.heads)
        params = checkpoint.read(_shardings(boxed, mesh), progress=True)
    return LoadedModel(config, params, tokenizer, make_module(config, tokenizer.vocab), 0)


def _shardings(boxed: Any, mesh: MeshConfig) -> dict[str, Any]:
    """{path: sharding} over all devices."""
    return tree.flatten(parallel.param_shardings(boxed, parallel.make_mesh(mesh), parallel.rules(mesh)))


def _placed(params: Any, shardings: dict[str, Any]) -> Any:
    """Heads of other objectives are in full on every device."""
    mesh = next(iter(shardings.values())).mesh
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())

    def place(path: str, leaf: Any) -> jax.Array:
        return jax.make_array_from_callback(leaf.shape, shardings.get(path, whole), leaf.__getitem__)

    return tree.map_with_path(place, params)


def _run_folder(path: pathlib.Path) -> pathlib.Path:
    """The run directory that `path` is, or is a checkpoint of."""
    folder = find_run_folder(path)
    if folder is not None:
        return folder
    if not path.is_dir():
        raise DataError(f"{path} is not there; give a run directory, which holds run.json and checkpoints/")
    raise DataError(f"{path} is neither a run directory (it has no run.json) nor a checkpoint of one")


def _here(values: dict[str, Any], folder: pathlib.Path, dtype: str | None) -> dict[str, Any]:
    """The saved config with what belonged to the machine that trained it put right for this one."""
    values = dict(values)
    if values["tokenizer"].get("path") is not None:
        values["tokenizer"] = values["tokenizer"] | {"path": str(folder / "tokenizer")}
    execution = values["model"].get("execution", {}) | {"attention": "auto"}
    values["model"] = values["model"] | {"execution": execution}
    if dtype is not None:
        values["model"] |= {"dtype": dtype}
    return values


def _check_params(
    params: Any, module: ObjectiveModule, config: RunConfig, tokenizer: Tokenizer, folder: pathlib.Path
) -> None:
    """Raises CheckpointError listing parameters whose path or shape is not the module's.

    An imported model may have heads of other objectives, and lack this one's.
    """
    wanted = tree.flatten(parallel.unbox(expected_params(module, config, tokenizer)))
    found = tree.flatten(params)
    wrong = [
        f"  {path}: checkpoint {found[path].shape if path in found else 'none'}, "
        f"model {wanted[path].shape if path in wanted else 'none'}"
        for path in sorted({*found, *wanted})
        if not (path.startswith("heads/") and (path not in found or path not in wanted))
        and (path not in found or path not in wanted or found[path].shape != wanted[path].shape)
    ]
    if wrong:
        lines = "\n".join(wrong[:20] + (["  ..."] if len(wrong) > 20 else []))
        raise CheckpointError(f"the checkpoint does not fit {folder / 'run.json'}:\n{lines}")
