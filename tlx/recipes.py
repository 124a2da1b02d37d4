"""Building blocks of tlx's configs: published models under an objective, and laptop sizes."""

import pathlib
import sysconfig
from collections.abc import Mapping, Sequence
from typing import Any

from tlx.base.errors import ConfigError, one_of
from tlx.models.config import ModelConfig
from tlx.models.families import TABLE as FAMILIES
from tlx.run import base_config
from tlx.run.config import config_dict

# Folders of Python's standard library that replace the sources of a mixture, in its order.
STAND_INS = (
    ("*.py",),
    ("asyncio/*.py", "email/*.py", "http/*.py", "multiprocessing/*.py", "unittest/*.py"),
)


def published(objective: str, family: str, size: str) -> Any:
    """Return all defaults of an objective with a family's published model and a vocabulary of its size.

    The vocabulary is a SentencePiece one, trained on the run's own text.

    Args:
        objective: Name in tlx.objectives.
        family: Name in tlx.models.families.
        size: Key of the family's `sizes`.

    Returns:
        A ConfigDict.

    Raises:
        ConfigError: For an unknown objective or family.
        KeyError: For a size that was not published.
    """
    config = base_config(objective)
    model: ModelConfig = FAMILIES.load(family).sizes[size]
    config.model = config_dict(model)
    config.tokenizer.vocab_size = model.vocab_size
    return config


def tfds(name: str, **values: Any) -> dict[str, Any]:
    """Return a source of data.mixture: a TFDS data set by name.

    `values` are keys of the source itself (language, target_language, weight) or of its group `tfds` (column,
    train_split, ...).
    """
    of_source = {key: values.pop(key) for key in ("language", "target_language", "weight") if key in values}
    return {"source": "tfds", **of_source, "tfds": {"name": name, **values}}


def words_of(arg: str, legal: Sequence[str]) -> list[str]:
    """Return the colon-separated words of a config's argument; ConfigError for one that is not in `legal`."""
    words = [word for word in arg.split(":") if word]
    for word in words:
        if word not in legal:
            raise ConfigError(one_of("a word behind the config's name", word, legal))
    return words


def sized(config: Any, arg: str) -> Any:
    """Return `config` for the argument "", tiny(config) for "tiny"; ConfigError for other words."""
    return tiny(config) if words_of(arg, ("tiny",)) else config


def tiny(config: Any) -> Any:
    """Change a config in place to what two cores train in seconds without a network, and return it.

    The model keeps its blocks, two layers of width 64, without dropout. The text is bytes of Python's
    standard library, from as many sources as the mixture has (three at most; pairs of texts stay pairs,
    conversations become pairs). The optimizer is the quickstart's Muon.
    """
    small_model(config.model)
    config.tokenizer.kind = "bytes"
    data = config.data
    data.source = "python"
    data.sequence_length = 64
    pairs = bool(data.tfds.target_column) or bool(data.tfds.turns_column)
    data.tfds.target_column = ""
    data.tfds.turns_column = ""
    if data.mixture:
        data.mixture = _stand_ins(data.mixture)
    elif pairs:
        data.source = "docstrings"
    if "mem_len" in config.objective:
        config.objective.mem_len = 32
    optimizer = config.optimizer
    optimizer.name = "muon"
    optimizer.learning_rate = 1e-2
    optimizer.weight_decay = 0.1
    optimizer.beta1 = 0.9
    optimizer.beta2 = 0.99
    optimizer.eps = 1e-8
    optimizer.bias_correction = True
    optimizer.schedule.name = "linear"
    optimizer.schedule.warmup = 0.1
    optimizer.schedule.warmup_shape = "linear"
    optimizer.schedule.decay_from = "warmup"
    optimizer.schedule.final_fraction = 0.0
    config.train.steps = 60
    config.train.batch_size = 16
    config.train.microbatches = 1
    config.train.clip_norm = 1.0
    config.eval.every = 30
    config.eval.batches = 2
    config.eval.final_batches = 4
    config.checkpoint.every = 30
    config.log.every = 1
    config.log.print_every = 10
    return config


def small_model(model: Any) -> None:
    """Change a model's ConfigDict in place to two layers of width 64, its vocabulary to the tokenizer's."""
    model.vocab_size = 0
    model.width = 64
    model.num_layers = 2
    if model.num_decoder_layers:
        model.num_decoder_layers = 2
    without_dropout(model)
    model.attention.num_heads = 2
    model.attention.num_kv_heads = 0
    model.attention.head_dim = 0
    model.attention.window_pattern = tuple(min(window, 16) for window in model.attention.window_pattern)
    model.attention.global_head_dim = min(model.attention.global_head_dim, 64)
    model.attention.global_kv_heads = 0
    # Two layers may have no layer before them to share keys with.
    model.attention.shared_layers = 0
    model.feedforward.shared_multiplier = 1
    model.embedding.per_layer_dim = min(model.embedding.per_layer_dim, 16)
    model.feedforward.ff_dim = 0
    if model.kind == "bilstm":
        model.recurrent.cell_dim = 64
        model.recurrent.characters.filters = ((1, 16), (2, 16), (3, 32))
    if model.embedding.cutoffs:
        model.embedding.cutoffs = (128, 256)
    if model.embedding.width:
        model.embedding.width = 32
    if model.bottleneck.width:
        model.bottleneck.width = 32


def without_dropout(model: Any) -> None:
    """Set every dropout rate of a model's ConfigDict to 0."""
    model.dropout = 0.0
    model.attention.dropout = 0.0
    model.feedforward.dropout = 0.0


def tiny_pod(config: Any) -> Any:
    """Change a config of a pod in place to what a laptop trains in seconds, and return it.

    It keeps the kind of model, loss and mesh: 20 steps on 8 rows of 64 bytes of Python's standard library,
    two layers of width 64 with 4 heads. The axis of the mesh that takes all devices (-1) stays as it is.
    """
    config.tokenizer.kind = "bytes"
    config.data.source = "python"
    config.data.sequence_length = 64
    model = config.model
    model.vocab_size = 0
    model.width = 64
    model.num_layers = 2
    model.attention.num_heads = 4
    if model.attention.num_kv_heads:
        model.attention.num_kv_heads = 2
    model.feedforward.ff_dim = 192
    config.loss.chunk = 0
    config.train.batch_size = 8
    config.train.steps = 20
    if config.mesh.fsdp != -1:
        config.mesh.fsdp = 1
    config.eval.final = False
    return config


def few_records(config: Any) -> Any:
    """Change a task's config in place to a few steps on 32 records, and return it."""
    config.data.records.limit = 32
    config.data.records.epochs = 1.0
    config.train.batch_size = 4
    config.eval.every = 0
    config.log.print_every = 2
    return config


def measured(config: Any, arg: str) -> Any:
    """Return a config whose step is to be timed: on bytes, without dropout, small for the argument "tiny"."""
    config.tokenizer.kind = "bytes"
    without_dropout(config.model)
    if words_of(arg, ("tiny",)):
        small_model(config.model)
        config.data.sequence_length = 64
        config.train.batch_size = 8
    return config


def _stand_ins(mixture: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], ...]:
    """Replace the first two single texts and the first pair of a mixture by the standard library."""
    library = pathlib.Path(sysconfig.get_paths()["stdlib"])
    paired = [source for source in mixture if source["tfds"].get("target_column")]
    single = [source for source in mixture if source not in paired][:2]
    sources: list[dict[str, Any]] = []
    for source, patterns in zip(single, STAND_INS, strict=False):
        files = tuple(str(library / pattern) for pattern in patterns)
        sources.append(
            {
                "source": "text",
                "language": source.get("language", ""),
                "weight": source.get("weight", 1.0),
                "text": {"files": files, "validation_fraction": 0.1},
            }
        )
    for source in paired[:1]:
        sources.append(
            {
                "source": "docstrings",
                "language": source.get("language", ""),
                "target_language": source.get("target_language", ""),
            }
        )
    return tuple(sources)
