"""The base model of a run: a run, a checkpoint or a Hugging Face directory whose model is trained further."""

import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

import tlx
from tlx.adapt.transfer import base_hash
from tlx.base.errors import ConfigError
from tlx.base.files import cache_folder
from tlx.data.build_once import build_once
from tlx.run import RunConfig
from tlx.text import Tokenizer, load_tokenizer
from tlx.training.config import BaseConfig
from tlx.training.directory import read_run


class BaseModel(NamedTuple):
    """A model that a run starts from."""

    config: RunConfig
    """Of the run that trained it."""
    tokenizer: Tokenizer
    """Its tokenizer, which the new run keeps."""
    params: Any
    """Its parameters, on the host."""
    record: BaseConfig
    """Its path and the hash of its parameters, for run.json."""


def load_base(
    path: str | os.PathLike, allow: Sequence[str] = (), workdir: str | os.PathLike | None = None
) -> BaseModel:
    """Load a base model, its parameters on the host.

    Args:
        path: Directory of the base model.
        allow: Packages outside tlx whose code its saved config may name.
        workdir: Directory of the run that starts from it; a run that was begun there keeps the number of rows
            that its token table has. None: a new run.

    Returns:
        The base model.

    Raises:
        ConfigError: It has adapter modules beside its matrices; else as tlx.load.
    """
    saved = None if workdir is None else read_run(pathlib.Path(workdir))
    vocab_multiple = 0 if saved is None else saved["config"]["model"]["vocab_multiple"]
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        lm = tlx.load(path, allow=allow, vocab_multiple=vocab_multiple)
    if lm.config.model.adapters.any:
        raise ConfigError(
            f"{path} has adapter modules beside its matrices; merge them: tlx convert merge {path} TO"
        )
    params = jax.device_get(lm.standalone_params)
    return BaseModel(lm.config, lm.tokenizer, params, BaseConfig(os.path.abspath(path), base_hash(params)))


def cache_tokenizer(tokenizer: Tokenizer) -> str:
    """Save the tokenizer in the user's cache, and return its folder there: the base may be deleted."""
    folder = cache_folder() / "tokenizers" / tokenizer.hash[:32]
    build_once(folder, tokenizer.save, load_tokenizer)
    return str(folder)
