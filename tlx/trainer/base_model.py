"""The base model of a run: a run, a checkpoint or a Hugging Face directory whose model is trained further."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from tlx.adapt.config import AdaptConfig
from tlx.adapt.transfer import ENCODER_TABLE, TABLE
from tlx.api.load import load_base_model
from tlx.base import place as places
from tlx.base import tree
from tlx.base.errors import ConfigError
from tlx.base.files import cache_folder
from tlx.base.place import BucketPath, Place
from tlx.data.build_once import build_once
from tlx.run import RunConfig
from tlx.text import Tokenizer, load_tokenizer
from tlx.text.added_tokens import added_to
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


class ParameterDtypes(NamedTuple):
    """Dtypes of a run that starts from a base model."""

    trained: Literal["float32", "bfloat16"]
    """model.param_dtype: float32 or bfloat16."""
    frozen: Literal["", "float32", "bfloat16"]
    """base.param_dtype: the base model's own where it is another one, else empty."""


def parameter_dtypes(base: BaseModel, chosen: str | None, workdir: Place | None = None) -> ParameterDtypes:
    """Choose the dtypes of a run that starts from a base model.

    Trained parameters are float32 unless the config says otherwise, whatever the base is stored in: updates of
    2e-5 vanish in the eight bits of bfloat16. A run that has begun keeps the dtypes that it has.

    Args:
        base: The base model.
        chosen: model.param_dtype of the config; None where it leaves the choice.
        workdir: Run directory; None for a new run.

    Returns:
        The dtypes.
    """
    saved = None if workdir is None else read_run(workdir)
    stored = base.config.model.param_dtype
    if saved is not None and chosen is None:
        model = saved["config"].get("model", {})
        frozen = saved["config"].get("base", {}).get("param_dtype", "")
        return ParameterDtypes(model.get("param_dtype", "float32"), frozen)
    trained: Any = chosen or "float32"
    return ParameterDtypes(trained, "" if trained == stored else stored)


def load_base(
    path: str | os.PathLike | BucketPath,
    allow: Sequence[str] = (),
    workdir: str | os.PathLike | BucketPath | None = None,
    adapt: AdaptConfig | None = None,
    add: Sequence[str] = (),
) -> BaseModel:
    """Load a base model, its parameters on the host.

    Args:
        path: Directory of the base model.
        allow: Packages outside tlx whose code its saved config may name.
        workdir: Directory of the run that starts from it; a run that was begun there keeps the number of rows
            that its token table has. None: a new run.
        adapt: How the run adapts it: with adapt.base_weights, what is not trained is quantised as it is read.
        add: Special tokens that are added to its tokenizer: tokenizer.add.

    Returns:
        The base model.

    Raises:
        ConfigError: It has adapter modules beside its matrices; else as tlx.load.
    """
    saved = None if workdir is None else read_run(places.parse(workdir))
    vocab_multiple = 0 if saved is None else saved["config"]["model"]["vocab_multiple"]
    lm, digest = load_base_model(path, vocab_multiple, allow, adapt)
    if lm.config.model.adapters.any:
        raise ConfigError(
            f"{path} has adapter modules beside its matrices; merge them: tlx convert merge {path} TO"
        )
    record = BaseConfig(places.absolute_text(path), digest)
    base = BaseModel(lm.config, lm.tokenizer, lm.params, record)
    return with_added_tokens(base, add, (adapt or AdaptConfig()).method) if add else base


def with_added_tokens(base: BaseModel, names: Sequence[str], method: str) -> BaseModel:
    """Add special tokens to the tokenizer of a base model, and rows for them to its tables and output.

    New rows are zeros, which `adapt.transfer` draws in the token table, or those that padded the vocabulary.

    Args:
        base: The base model.
        names: tokenizer.add.
        method: adapt.method.

    Returns:
        The base model with a larger vocabulary; itself where there is nothing to add.

    Raises:
        ConfigError: A name is an ordinary token, or the method does not train the table.
    """
    tokenizer = added_to(base.tokenizer, names)
    if tokenizer is base.tokenizer:
        return base
    if method != "full":
        raise ConfigError(
            f"tokenizer.add = {tuple(names)} needs rows that are trained: adapt.method = 'full', not {method!r}"
        )
    if base.config.model.embedding.cutoffs or base.config.model.kind == "bilstm":
        raise ConfigError("tokenizer.add: a vocabulary in clusters, or read as characters, cannot grow")
    model = dataclasses.replace(base.config.model, vocab_size=tokenizer.vocab.size)
    size = base.config.model.vocab_size or base.tokenizer.vocab.size
    rows = dataclasses.replace(model, vocab_size=size).padded_vocab
    missing = model.padded_vocab - rows
    params = base.params
    if missing > 0:
        params = tree.map_with_path(
            lambda path, leaf: _with_rows(leaf, missing) if _has_rows(path, leaf.shape, rows) else leaf,
            params,
        )
    return base._replace(
        config=dataclasses.replace(base.config, model=model), tokenizer=tokenizer, params=params
    )


def _has_rows(path: str, shape: tuple[int, ...], rows: int) -> bool:
    """Tell whether a parameter has a row for each id: a token table, the output layer, the bias of a masked head."""
    if path in (TABLE, ENCODER_TABLE) or path.startswith("model/output/"):
        return shape[0] == rows
    return path.startswith("heads/") and shape == (rows,)


def _with_rows(leaf: Any, count: int) -> np.ndarray:
    """Add rows of zeros at the end of an array, which may be read on demand (hub/weights.py)."""
    values = np.asarray(leaf.read() if hasattr(leaf, "read") else leaf)
    return np.pad(values, [(0, count), *[(0, 0)] * (values.ndim - 1)])


def cache_tokenizer(tokenizer: Tokenizer) -> str:
    """Save the tokenizer in the user's cache, and return its folder there: the base may be deleted."""
    folder = cache_folder() / "tokenizers" / tokenizer.hash[:32]
    build_once(folder, tokenizer.save, load_tokenizer)
    return str(folder)
