"""Tiny tasks of every shape, on records of their own."""

import dataclasses
import functools

import jax
import numpy as np

from tlx import parallel
from tlx.data.readers import Record
from tlx.models.config import ModelConfig
from tlx.nn.characters import CharacterConfig
from tlx.nn.config import AttentionConfig, ExecutionConfig, PositionConfig
from tlx.nn.embed import EmbeddingConfig
from tlx.nn.losses import LossConfig
from tlx.nn.recurrent import RecurrentConfig
from tlx.tasks import TABLE
from tlx.tasks.shared.base import TaskSpec
from tlx.text import TokenizerConfig, make_tokenizer
from tlx.text.characters import character_table

SHAPES = ("encoder", "decoder", "encoder_decoder", "two_stream")
# With the kind of model that reads characters, and that nothing but tasks reads.
READ_SHAPES = (*SHAPES, "bilstm")
CHARACTERS = RecurrentConfig(
    cell_dim=8, characters=CharacterConfig(4, ((1, 4), (3, 8)), num_highways=1, max_characters=6)
)
TOKENIZER = make_tokenizer(TokenizerConfig(kind="bytes"), ())
LENGTH = 16


def model_of(shape: str, dropout: float = 0.0) -> ModelConfig:
    position = {"two_stream": PositionConfig("relative_sinusoidal", segment_relative=True)}
    return ModelConfig(
        kind=shape,
        vocab_size=TOKENIZER.vocab.size,
        width=16,
        num_layers=1,
        dropout=dropout,
        block_layout="post" if shape == "two_stream" else "pre",
        attention=AttentionConfig(num_heads=2),
        position=position.get(shape, PositionConfig("learned", max_length=LENGTH)),
        embedding=EmbeddingConfig(num_types=2 if shape == "encoder" else 0),
        recurrent=CHARACTERS,
        execution=ExecutionConfig(unroll=1),
    )


def records_of(*values: dict) -> list[Record]:
    return [Record(f"file:{number}", value) for number, value in enumerate(values, start=1)]


def spec_of(task: str, shape: str, records: list[Record], **config) -> TaskSpec:
    parts = TABLE.load(task)
    settings = parts.config_class(**config)
    settings = parts.infer_labels(settings, records)
    characters = character_table(TOKENIZER, 6) if shape == "bilstm" else None
    return TaskSpec(settings, LENGTH, TOKENIZER.vocab, shape, characters=characters)


def batch_of(task: str, spec: TaskSpec, records: list[Record]) -> dict[str, np.ndarray]:
    parts = TABLE.load(task)
    items = parts.prepare(records, TOKENIZER, spec)
    rows = [parts.example(np.random.default_rng(0), item, spec) for item in items]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


@functools.cache
def module_of(task: str, shape: str, settings, dropout: float = 0.0, smoothing: float = 0.0):
    loss = LossConfig(label_smoothing=smoothing)
    return TABLE.load(task).module(settings, model_of(shape, dropout), loss)


def init(module, batch):
    """Parameters drawn by numpy: compiling an initialiser takes longer than the test."""
    row = {name: np.zeros_like(value[:1]) for name, value in batch.items()}
    shapes = parallel.unbox(jax.eval_shape(lambda key: module.init(key, row)["params"], jax.random.key(0)))
    rng = np.random.default_rng(0)
    draw = lambda leaf: (0.2 * rng.normal(size=leaf.shape)).astype(leaf.dtype)  # noqa: E731
    return jax.tree.map(draw, shapes)


@functools.partial(jax.jit, static_argnums=0)
def evaluated(module, params, batch):
    return module.apply({"params": params}, batch, method="evaluated")


def replaced(batch, **changes):
    return {**batch, **changes}


def with_config(spec: TaskSpec, **changes) -> TaskSpec:
    return dataclasses.replace(spec, config=dataclasses.replace(spec.config, **changes))
