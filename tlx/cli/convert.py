"""Take a model from a Hugging Face directory, or hand one back.

    tlx convert import bert-base-uncased/ runs/bert
    tlx convert import gpt2/ runs/gpt2 --verify
    tlx convert export runs/bert my-bert/
    tlx convert merge runs/lora runs/merged                a run whose LoRA is part of its matrices
    tlx convert adapter runs/lora my-adapter/              its LoRA alone, for the library peft; or the
                                                           prefix, or the prompt, of a decoder

A directory is one that `save_pretrained` wrote: config.json, safetensors and the tokenizer's files. What
tlx cannot represent is an error that names it. An import ends with a check of what was read; --verify runs
the original as well (with transformers and torch) and prints the largest difference in logits.
"""

import argparse
import dataclasses
import os
import pathlib
import tempfile

import numpy as np

import tlx
from tlx.api.load import open_hub_checkpoint
from tlx.base import tree
from tlx.base.config import to_dict
from tlx.base.errors import ConfigError, StorageError
from tlx.base.files import read_json
from tlx.checkpoint import Checkpoints
from tlx.cli import flags
from tlx.hub import folder as hub
from tlx.hub import peft, verify
from tlx.hub.peft_virtual import save_virtual_tokens
from tlx.hub.spill import spill
from tlx.models.families import MODEL_TYPES, TABLE
from tlx.training import directory


def main(argv: list[str]) -> int:
    """`tlx convert`: exit 64 for what cannot be read or represented, 73 where nothing can be written."""
    options = flags.parse(_parser(), argv)
    return {"import": _import, "export": _export, "merge": _merge, "adapter": _adapter}[options.way](options)


def _parser() -> argparse.ArgumentParser:
    parser = flags.parser("convert", __doc__)
    parser.add_argument("way", choices=("import", "export", "merge", "adapter"))
    parser.add_argument("source", metavar="FROM", help="Hugging Face directory, or run directory")
    parser.add_argument("target", metavar="TO", help="folder to write; it must not be there yet, or empty")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="of the parameters written")
    parser.add_argument("--verify", action="store_true", help="compare logits with transformers")
    parser.add_argument(
        "--ignore", action="append", default=[], metavar="KEY", help="of config.json, or a tensor's name"
    )
    parser.add_argument("--family", help="export: as which family; the first that can say it")
    parser.add_argument("--step", type=int, help="export: which checkpoint; the newest sound one by default")
    parser.add_argument("--allow", action="append", default=[], metavar="PACKAGE", help="as tlx generate")
    return parser


def _import(options: argparse.Namespace) -> int:
    """Tensor by tensor: only a piece of one is in memory at a time."""
    _refuse_full(options.target)
    foreign = open_hub_checkpoint(pathlib.Path(options.source).absolute(), options.dtype, options.ignore)
    checkpoint = foreign.checkpoint
    tokenizer = foreign.tokenizer
    target = _folder(options.target)
    tokenizer.save(target / "tokenizer")
    path = str((target / "tokenizer").absolute())
    placed = dataclasses.replace(foreign.config.tokenizer, path=path)
    config = dataclasses.replace(foreign.config, tokenizer=placed)
    source = {"imported_from": str(checkpoint.folder), "family": checkpoint.family.name}
    with (
        tempfile.TemporaryDirectory(prefix=".import-", dir=target) as pieces,
        Checkpoints(target / "checkpoints", config.checkpoint) as checkpoints,
    ):
        checkpoints.prepare()
        params = spill(checkpoint.params, pathlib.Path(pieces), progress=True)
        checkpoints.save(0, {"params": tree.unflatten(params)})
        if not checkpoints.wait():
            raise StorageError(f"{target}: the checkpoint could not be written; see above")
    directory.write_run(target, to_dict(config), tokenizer.hash, source, {"data": 1}, checkpoint.num_params)
    dtypes = sorted({str(leaf.dtype) for leaf in checkpoint.params.values()})
    print(f"{options.source}: {checkpoint.family.name}, {checkpoint.num_params:,} parameters")
    print(f"{target}: {', '.join(dtypes)}, heads: {', '.join(checkpoint.heads) or 'none'}")
    if options.verify:
        for name, largest, scale in verify.compare(checkpoint, checkpoint.read()):
            print(f"{name}: largest difference {largest:.2e} of {scale:.3g}")
    return 0


def _merge(options: argparse.Namespace) -> int:
    _refuse_full(options.target)
    lm = tlx.load(options.source, step=options.step, dtype=options.dtype, allow=options.allow).merged()
    target = _write_run(lm, options.target, {"merged_from": os.path.abspath(options.source)}, lm.num_params)
    print(f"{target}: {lm.num_params:,} parameters, {lm.config.objective.name}")
    return 0


def _write_run(lm: tlx.LoadedModel, place: str, source: dict[str, str], num_params: int) -> pathlib.Path:
    """The model as a run directory; `source` says in run.json where it is from."""
    target = _folder(place)
    lm.tokenizer.save(target / "tokenizer")
    path = str((target / "tokenizer").absolute())
    config = dataclasses.replace(lm.config, tokenizer=dataclasses.replace(lm.config.tokenizer, path=path))
    directory.write_run(target, to_dict(config), lm.tokenizer.hash, source, {"data": 1}, num_params)
    with Checkpoints(target / "checkpoints", config.checkpoint) as checkpoints:
        checkpoints.prepare()
        checkpoints.save(lm.step, {"params": lm.params})
        checkpoints.wait()
    return target


def _export(options: argparse.Namespace) -> int:
    _refuse_full(options.target)
    lm = tlx.load(options.source, step=options.step, allow=options.allow)
    config = lm.module.model
    params = lm.standalone_params
    family = options.family or hub.family_of(config, params)
    if family not in TABLE:
        TABLE.load(family)  # says which there are
    target = _folder(options.target)
    special = _special_ids(lm)
    dtype = None if options.dtype is None else np.dtype(options.dtype)
    name = hub.save_folder(target, family, config, params, special=special, dtype=dtype)
    lm.tokenizer.export(target, _frame(lm))
    print(f"{target}: {name} of the family {family}, with its tokenizer")
    return 0


def _adapter(options: argparse.Namespace) -> int:
    """For the base's own Hugging Face directory, or for what an export of it writes."""
    _refuse_full(options.target)
    lm = tlx.load(options.source, step=options.step, allow=options.allow)
    base = lm.config.base.path
    adapters = lm.module.model.adapters
    if adapters.prefix_length or adapters.prompt_length:
        begin = lm.tokenizer.vocab.bos
        number = save_virtual_tokens(options.target, lm.module.model, lm.params, base, begin)
        what = (
            "a prefix"
            if adapters.prefix_length
            else f"what a text begins with (id {begin}, not to be given) and a prompt"
        )
        print(f"{options.target}: {number} virtual tokens, {what}")
        return _tell_head(lm, options)
    if base and hub.is_hugging_face(base):
        values = read_json(pathlib.Path(base) / "config.json")
        family = MODEL_TYPES.load(values["model_type"], allow=()).name
        name = (values.get("architectures") or [""])[0] or hub.class_of(family, lm.params)
    else:
        known = tlx.load(base, allow=options.allow) if base else lm
        params = known.standalone_params
        family = options.family or hub.family_of(known.module.model, params)
        name = hub.class_of(family, params)
    layers = peft.save_adapter(options.target, family, name, lm.module.model, lm.params, base)
    print(f"{options.target}: LoRA of {len(layers)} layers of {name}, such as {layers[0]}")
    return _tell_head(lm, options)


def _tell_head(lm: tlx.LoadedModel, options: argparse.Namespace) -> int:
    if lm.params.get("heads"):
        print(f"the head of {lm.config.objective.name} is no part of it: it stays in {options.source}")
    return 0


def _frame(lm: tlx.LoadedModel) -> tuple[list[int], list[int]]:
    """What a text stands between, as the model was trained."""
    vocab = lm.tokenizer.vocab
    frames = {
        "encoder": ([vocab.cls], [vocab.sep]),
        "decoder": ([vocab.bos], []),
        "encoder_decoder": ([], [vocab.eos]),
        "two_stream": ([vocab.eos], []),
    }
    return frames[lm.kind]


def _special_ids(lm: tlx.LoadedModel) -> dict[str, int]:
    """What config.json says of them. An encoder-decoder begins with what tlx calls its bos."""
    vocab = lm.tokenizer.vocab
    ids = {"pad_token_id": vocab.pad, "eos_token_id": vocab.eos}
    begin = "decoder_start_token_id" if lm.kind == "encoder_decoder" else "bos_token_id"
    ids = ids | {begin: vocab.bos}
    return {key: index for key, index in ids.items() if index < vocab.size - vocab.added}


def _refuse_full(path: str) -> None:
    if os.path.isdir(path) and os.listdir(path):
        raise ConfigError(f"{path} is not empty; name a new folder")


def _folder(path: str) -> pathlib.Path:
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make {path}: {error}") from error
    return pathlib.Path(path)
