"""What the configs that come with tlx are made of: a published model under an objective; laptop sizes."""

import pathlib
import sysconfig
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from tlx.base.errors import ConfigError, one_of
from tlx.models.config import ModelConfig
from tlx.models.families import TABLE as FAMILIES
from tlx.run import base_config
from tlx.run.config import config_dict

# Folders of Python's standard library that stand in for the sources of a mixture, in its order.
STAND_INS = (("*.py",), ("asyncio/*.py", "email/*.py", "http/*.py", "multiprocessing/*.py", "unittest/*.py"))


def published(objective: str, family: str, size: str) -> ConfigDict:
    """All defaults of `objective` with a family's published model and a vocabulary of its size.

    objective: a name of tlx.objectives. family, size: of tlx.models.families. The vocabulary is a
    SentencePiece one, trained on the run's own text. KeyError for a size that was not published.
    """
    config = base_config(objective)
    model: ModelConfig = FAMILIES.load(family).sizes[size]
    config.model = config_dict(model)
    config.tokenizer.vocab_size = model.vocab_size
    return config


def tfds(name: str, **values: Any) -> dict[str, Any]:
    """A source of data.mixture: a TFDS data set by name. `values` are the source's own (language, weight),
    or those of its `tfds` group (column, train_split ...)."""
    outer = {key: values.pop(key) for key in ("language", "target_language", "weight") if key in values}
    return {"source": "tfds", **outer, "tfds": {"name": name, **values}}


def sized(config: ConfigDict, arg: str) -> ConfigDict:
    """What get_config(arg) returns: `config` for "", tiny(config) for "tiny"; ConfigError for other words."""
    if arg not in ("", "tiny"):
        raise ConfigError(one_of("the word behind the config's name", arg, ("tiny",)) + ", or there is none")
    return tiny(config) if arg else config


def tiny(config: ConfigDict) -> ConfigDict:
    """`config`, changed to what two cores without a network train in seconds: its blocks, few and narrow.

    The text is bytes of Python's standard library, in as many parts as the mixture has sources (three at
    most; pairs of texts stay pairs, conversations become some). Dropout is off, and the optimizer is the
    quickstart's Muon.
    """
    small_model(config.model)
    config.tokenizer.kind = "bytes"
    data = config.data
    data.source, data.sequence_length = "python", 64
    pairs = bool(data.tfds.target_column)
    pairs = pairs or bool(data.tfds.turns_column)
    data.tfds.target_column = data.tfds.turns_column = ""
    if data.mixture:
        data.mixture = _stand_ins(data.mixture)
    elif pairs:
        data.source = "docstrings"
    if "mem_len" in config.objective:
        config.objective.mem_len = 32
    optimizer = config.optimizer
    optimizer.name, optimizer.learning_rate, optimizer.weight_decay = "muon", 1e-2, 0.1
    optimizer.beta1, optimizer.beta2, optimizer.eps = 0.9, 0.99, 1e-8
    optimizer.schedule.name, optimizer.schedule.warmup, optimizer.schedule.final_fraction = "linear", 0.1, 0.0
    train = config.train
    train.steps, train.batch_size, train.microbatches, train.clip_norm = 60, 16, 1, 1.0
    config.eval.every, config.eval.batches, config.eval.final_batches = 30, 2, 4
    config.checkpoint.every, config.log.every, config.log.print_every = 30, 1, 10
    return config


def words_of(arg: str, legal: Sequence[str]) -> list[str]:
    """The words of a config's argument, joined by colons; ConfigError for one that is not among `legal`."""
    words = [word for word in arg.split(":") if word]
    for word in words:
        if word not in legal:
            raise ConfigError(one_of("a word behind the config's name", word, legal))
    return words


def few_records(config: ConfigDict) -> ConfigDict:
    """The config of a task, changed to a handful of steps on a handful of records."""
    records = config.data.records
    records.limit, records.epochs = 32, 1.0
    config.train.batch_size = 4
    config.eval.every, config.log.print_every = 0, 2
    return config


def small_model(model: ConfigDict) -> None:
    """Makes a model two layers of 64, its vocabulary the tokenizer's."""
    model.vocab_size = 0
    model.width, model.num_layers = 64, 2
    if model.num_decoder_layers:
        model.num_decoder_layers = 2
    model.dropout = model.attention.dropout = model.feedforward.dropout = 0.0
    model.attention.num_heads, model.attention.num_kv_heads, model.attention.head_dim = 2, 0, 0
    model.attention.window_pattern = tuple(min(window, 16) for window in model.attention.window_pattern)
    model.feedforward.ff_dim = 0
    if model.kind == "bilstm":
        model.recurrent.cell_dim, model.recurrent.characters.filters = 64, ((1, 16), (2, 16), (3, 32))
    if model.embedding.cutoffs:
        model.embedding.cutoffs = (128, 256)
    if model.embedding.width:
        model.embedding.width = 32


def measured(config: ConfigDict, arg: str) -> ConfigDict:
    """What get_config(arg) of a step to be timed returns: on bytes and without dropout; small for "tiny"."""
    config.tokenizer.kind = "bytes"
    model = config.model
    model.dropout = model.attention.dropout = model.feedforward.dropout = 0.0
    if words_of(arg, ("tiny",)):
        small_model(model)
        config.data.sequence_length, config.train.batch_size = 64, 8
    return config


def _stand_ins(mixture: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
    """The first single texts of a mixture, at most two of them, and its first pair of texts."""
    library = pathlib.Path(sysconfig.get_paths()["stdlib"])
    paired = [source for source in mixture if source["tfds"].get("target_column")]
    single = [source for source in mixture if source not in paired][:2]
    found = []
    for source, globs in zip(single, STAND_INS, strict=False):
        files = tuple(str(library / pattern) for pattern in globs)
        named = {"language": source.get("language", ""), "weight": source.get("weight", 1.0)}
        found.append({"source": "text", **named, "text": {"files": files, "validation_fraction": 0.1}})
    for source in paired[:1]:
        names = {key: source.get(key, "") for key in ("language", "target_language")}
        found.append({"source": "docstrings", **names})
    return tuple(found)
