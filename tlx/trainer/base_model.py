"""The model that a run goes on from: `--from=DIR`, a run, a checkpoint or a Hugging Face directory."""

import os
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


class BaseModel(NamedTuple):
    """What the run goes on from; the parameters on the host."""

    config: RunConfig
    tokenizer: Tokenizer
    params: Any
    record: BaseConfig


def load_base(path: str, allow: Sequence[str] = ()) -> BaseModel:
    """Opens the model, its parameters on the host."""
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        lm = tlx.load(path, allow=allow)
    if lm.config.model.adapters.any:
        raise ConfigError(
            f"{path} has adapters beside its matrices; make them one: tlx convert merge {path} TO"
        )
    params = jax.device_get(lm.standalone_params)
    return BaseModel(lm.config, lm.tokenizer, params, BaseConfig(os.path.abspath(path), base_hash(params)))


def cache_tokenizer(tokenizer: Tokenizer) -> str:
    """A folder with the tokenizer in the user's cache: the base may go away."""
    folder = cache_folder() / "tokenizers" / tokenizer.hash[:32]
    build_once(folder, tokenizer.save, load_tokenizer)
    return str(folder)
