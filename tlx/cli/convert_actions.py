"""The conversions of `tlx convert`: import, export, merge, adapter and adapt."""

import argparse
import contextlib
import dataclasses
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from tlx.adapt.kinds import convert_kind
from tlx.api.export import exported_frame, exported_head, special_ids
from tlx.api.load import load, open_hub_checkpoint
from tlx.api.load_elmo import load_elmo
from tlx.api.loaded_model import LoadedModel
from tlx.base import place as places
from tlx.base import tree
from tlx.base.config import to_dict
from tlx.base.errors import ConfigError, StorageError
from tlx.base.files import PARTIAL, atomic_open, new_folder, read_json, storage_errors, write_json
from tlx.base.place import BucketPath, Place
from tlx.checkpoint import Checkpoints
from tlx.hub import folder as hub
from tlx.hub import peft, push, sentence_transformers, verify
from tlx.hub.config_file import named_class
from tlx.hub.elmo import is_elmo
from tlx.hub.peft_virtual import save_virtual_tokens
from tlx.hub.place import open_place
from tlx.hub.spill import spill
from tlx.models.families import MODEL_TYPES, TABLE
from tlx.nn.weight_formats import dequantized_tree
from tlx.run import RunConfig, base_config
from tlx.run.checks import resolve
from tlx.run.spec import make_module
from tlx.tasks import CHAT_TASKS
from tlx.text import Tokenizer
from tlx.text.chat import ending, jinja_of
from tlx.text.generation_rules import FILE as GENERATION_CONFIG
from tlx.text.generation_rules import rules_of, values_of
from tlx.text.model_template import FILE as CHAT_TEMPLATE
from tlx.training import directory


def _import(options: argparse.Namespace) -> None:
    """Import a model tensor by tensor: only a slice of one is in memory at a time."""
    _require_empty(options.target)
    with storage_errors():
        folder = places.local_path(open_place(options.source))
    if is_elmo(folder):
        _import_elmo(options, folder)
        return
    if options.verify:
        verify.require_libraries()
    foreign = open_hub_checkpoint(folder.absolute(), options.dtype, options.ignore, options.task)
    checkpoint = foreign.checkpoint
    tokenizer = foreign.tokenizer
    source = {"imported_from": places.absolute_text(options.source), "family": checkpoint.family.name}
    target = places.parse(options.target)
    with _new_run(target) as run:
        config = _save_tokenizer(run, target, foreign.config, tokenizer)
        disk = None if isinstance(run, BucketPath) else run
        with (
            tempfile.TemporaryDirectory(prefix=".import-", dir=disk) as pieces,
            Checkpoints(run / "checkpoints", config.checkpoint) as checkpoints,
        ):
            checkpoints.prepare()
            params = spill(checkpoint.params, pathlib.Path(pieces), progress=True)
            _save(checkpoints, 0, tree.unflatten(params))
        directory.write_run(run, to_dict(config), tokenizer.hash, source, {"data": 1}, checkpoint.num_params)
    dtypes = sorted({str(leaf.dtype) for leaf in checkpoint.params.values()})
    print(f"{options.source}: {checkpoint.family.name}, {checkpoint.num_params:,} parameters")
    head = checkpoint.task_head
    heads = checkpoint.heads if head is None else (f"heads/{head.task}",)
    print(f"{target}: {', '.join(dtypes)}, heads: {', '.join(heads) or 'none'}")
    if options.verify:
        for name, largest, scale in verify.compare(checkpoint, checkpoint.read()):
            print(f"{name}: largest difference {largest:.2e} of {scale:.3g}")


def _import_elmo(options: argparse.Namespace, folder: pathlib.Path) -> None:
    """Import a folder of ELMo's released files."""
    if options.verify or options.task:
        raise ConfigError(
            "--verify and --task are for Hugging Face directories, not for ELMo's released files"
        )
    model = load_elmo(folder, options.dtype)
    source = {"imported_from": places.absolute_text(options.source), "family": "elmo"}
    target = _write_run(model, options.target, source, model.num_params)
    print(
        f"{target}: elmo, {model.num_params:,} parameters; tasks read it: tlx finetune --from={options.target}"
    )


def _load(options: argparse.Namespace, dtype: str | None = None) -> LoadedModel:
    """Load the model of the source, which is a run."""
    return load(options.source, step=options.step, dtype=dtype, allow=options.allow, params=options.params)


def _merge(options: argparse.Namespace) -> None:
    """Write a run with its adapter added to the base model's parameters."""
    _require_empty(options.target)
    model = _load(options, options.dtype).merged()
    source = {"merged_from": places.absolute_text(options.source)}
    target = _write_run(model, options.target, source, model.num_params)
    print(f"{target}: {model.num_params:,} parameters, {model.config.objective.name}")


def _write_run(model: LoadedModel, path: str, source: dict[str, str], num_params: int) -> Place:
    """Write a model as a run directory; run.json records `source`."""
    target = places.parse(path)
    with _new_run(target) as run:
        config = _save_tokenizer(run, target, model.config, model.tokenizer)
        with Checkpoints(run / "checkpoints", config.checkpoint) as checkpoints:
            checkpoints.prepare()
            _save(checkpoints, model.step, model.params)
        directory.write_run(run, to_dict(config), model.tokenizer.hash, source, {"data": 1}, num_params)
    return target


@contextlib.contextmanager
def _new_run(target: Place) -> Iterator[Place]:
    """Yield where a run directory is written, which an error leaves nothing of.

    That is a temporary folder which becomes `target`, or `target` itself in a bucket, where nothing can be renamed:
    run.json is written last there.
    """
    if not isinstance(target, BucketPath):
        with new_folder(target) as folder:
            yield folder
        return
    try:
        with storage_errors():
            yield target
    except BaseException:
        with contextlib.suppress(OSError):
            places.remove_tree(target)
        raise


@contextlib.contextmanager
def _new_files(path: str) -> Iterator[pathlib.Path]:
    """Yield a folder whose files become those of a place at the end; an error leaves nothing half done."""
    target = places.parse(path)
    with storage_errors():
        new = places.written_folder(target) if isinstance(target, BucketPath) else new_folder(target)
        with new as folder:
            yield folder


def _save(checkpoints: Checkpoints, step: int, params: Any) -> None:
    """Save the parameters. Raises StorageError where they could not be written."""
    checkpoints.save(step, {"params": params})
    if not checkpoints.wait():
        raise StorageError(f"{checkpoints.folder}: the checkpoint could not be written; see above")


def _save_tokenizer(run: Place, target: Place, config: RunConfig, tokenizer: Tokenizer) -> RunConfig:
    """Save the tokenizer of a run directory.

    Args:
        run: the directory as it is written.
        target: the directory as it will be called.
        config: the run's config.
        tokenizer: its tokenizer.

    Returns:
        The config that reads the tokenizer from there.
    """
    with places.written_folder(run / "tokenizer") as folder:
        tokenizer.save(folder)
    path = str(target / "tokenizer")
    return dataclasses.replace(config, tokenizer=dataclasses.replace(config.tokenizer, path=path))


def _export(options: argparse.Namespace) -> None:
    """Write a Hugging Face directory, and upload it with --push."""
    if options.push is None:
        _export_folder(options, options.target)
        return
    # First, so that a missing token or package is told before minutes of export.
    repository = push.open_repository(options.push)
    with contextlib.ExitStack() as stack:
        target = options.target or stack.enter_context(tempfile.TemporaryDirectory(prefix="tlx-export-"))
        model = _export_folder(options, target)
        message = (
            f"{model.config.name or pathlib.Path(options.source).name} at step {model.step}, exported by tlx"
        )
        print(f"uploading to {options.push}", flush=True)
        print(f"uploaded: {push.upload(repository, target, message, options.public)}")


def _export_folder(options: argparse.Namespace, path: str) -> LoadedModel:
    """Write a Hugging Face directory; returns the model."""
    _require_empty(path)
    # The dtype of an export is that of its files alone.
    model = _load(options)
    config = model.module.model
    params, head = exported_head(model, options.without_head)
    family = options.family or hub.family_of(config, params, head)
    if family not in TABLE:
        TABLE.load(family)  # raises an error that lists the families
    special = special_ids(model)
    dtype = None if options.dtype is None else np.dtype(options.dtype)
    with _new_files(path) as folder:
        # The tokenizer first: it may need a package that is not installed.
        model.tokenizer.export(folder, exported_frame(model))
        name = hub.save_folder(folder, family, config, params, special=special, dtype=dtype, task_head=head)
        sentence_transformers.write(folder, model.config.embed, config.width)
        _export_generation(folder, model, special)
    print(f"{path}: {name} of the family {family}, with its tokenizer")
    return model


# Objective that a converted model is assumed to be trained with next.
_OBJECTIVES = {"encoder": "mlm", "decoder": "clm", "encoder_decoder": "span_corruption"}


def _adapt(options: argparse.Namespace) -> None:
    """Write a run whose model begins as another kind of model."""
    _require_empty(options.target)
    if options.kind is None:
        raise ConfigError(
            f"tlx convert adapt {options.source}: --kind=encoder, decoder or encoder_decoder is missing"
        )
    model = load(options.source, step=options.step, dtype=options.dtype, allow=options.allow)
    params = jax.device_get(dequantized_tree(model.standalone_params))
    converted, params = convert_kind(model.module.model, params, options.kind, options.cross_attention)
    values = base_config(_OBJECTIVES[options.kind]).to_dict()
    values["model"] = to_dict(converted)
    values["tokenizer"] = to_dict(model.config.tokenizer)
    values["data"]["sequence_length"] = model.config.data.sequence_length
    config = resolve(values)
    module = make_module(config, model.tokenizer.vocab)
    new = LoadedModel(config, params, model.tokenizer, module, 0)
    source = {"adapted_from": places.absolute_text(options.source)}
    target = _write_run(new, options.target, source, new.num_params)
    print(
        f"{target}: {converted.kind}, {new.num_params:,} parameters, from a {model.kind}; train it before use"
    )


def _adapter(options: argparse.Namespace) -> None:
    """Write a run's adapter for peft, on the base's own Hugging Face directory or on an export of it."""
    _require_empty(options.target)
    model = _load(options)
    base = model.config.base.path
    adapters = model.module.model.adapters
    if adapters.prefix_hidden:
        model = model.merged()
    if adapters.prefix_length or adapters.prompt_length:
        start = model.frame.named().start
        with _new_files(options.target) as folder:
            number = save_virtual_tokens(folder, model.module.model, model.params, base, start)
        if adapters.prefix_length:
            kind = "a prefix"
        elif start:
            ids = ", ".join(map(str, start))
            kind = f"the beginning of a text (id {ids}, which inputs must leave out) and a prompt"
        else:
            kind = "a prompt"
        print(f"{options.target}: {number} virtual tokens, {kind}")
    else:
        family, name = _base_class(options, model)
        with _new_files(options.target) as folder:
            layers = peft.save_adapter(folder, family, name, model.module.model, model.params, base)
        print(f"{options.target}: LoRA of {len(layers)} layers of {name}, such as {layers[0]}")
    if model.params.get("heads"):
        print(f"the head of {model.config.objective.name} is not included: it stays in {options.source}")


def _base_class(options: argparse.Namespace, model: LoadedModel) -> tuple[str, str]:
    """Return the family and the Hugging Face class of the base model."""
    base = model.config.base.path
    if base and hub.is_hugging_face(base):
        values = read_json(pathlib.Path(base) / "config.json")
        family = MODEL_TYPES.load(values["model_type"], allow=()).name
        return family, named_class(values) or hub.class_of(family, model.params)
    base_model = load(base, allow=options.allow) if base else model
    params = base_model.standalone_params
    family = options.family or hub.family_of(base_model.module.model, params)
    return family, hub.class_of(family, params)


# Word of the command line -> conversion.
ACTIONS: Mapping[str, Callable[[argparse.Namespace], None]] = {
    "import": _import,
    "export": _export,
    "merge": _merge,
    "adapter": _adapter,
    "adapt": _adapt,
}


def _export_generation(target: pathlib.Path, model: LoadedModel, special: Mapping[str, Any]) -> None:
    """Write generation_config.json: the imported one, or ids of special tokens; of a chat model its template too."""
    tokenizer = model.tokenizer
    vocab = tokenizer.vocab
    values = values_of(tokenizer) or dict(special)
    if model.config.objective.name in CHAT_TASKS:
        template = model.config.objective.chat_template
        end, _ = ending(template, tokenizer)
        ends = rules_of(tokenizer).ends or (vocab.eos,)
        ids = [index for index in dict.fromkeys((end, *ends)) if index < vocab.size - vocab.added]
        values["eos_token_id"] = ids if len(ids) > 1 else ids[0]
        names = {name: tokenizer.piece(getattr(vocab, name)) for name in ("bos", "eos", "sep", "cls")}
        with atomic_open(target / CHAT_TEMPLATE, "wb") as handle:
            handle.write(jinja_of(template, names).encode())
    if model.kind != "encoder" and values != values_of(tokenizer):
        write_json(target / GENERATION_CONFIG, values)


def _require_empty(path: str) -> None:
    """Raise ConfigError where something would be overwritten; what a kill has left half done does not count."""
    place = places.parse(path)
    if isinstance(place, BucketPath):
        with storage_errors():
            if place.is_dir() or place.is_file():
                raise ConfigError(f"{path} is not empty; name a new one")
        return
    if os.path.isdir(path) and any(not name.startswith(PARTIAL) for name in os.listdir(path)):
        raise ConfigError(f"{path} is not empty; name a new folder")
    if os.path.isfile(path):
        raise ConfigError(f"{path} is a file; name a new folder")
