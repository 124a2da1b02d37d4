"""The size at which things are measured, and the models of that size."""

from typing import NamedTuple

import jax
from ml_collections import ConfigDict

from tlx.run import RunConfig, base_config
from tlx.run.checks import resolve


class BenchShape(NamedTuple):
    """Sizes of a model and of its batch."""

    width: int
    layers: int
    length: int
    batch: int
    vocab: int


FIELDS = {
    "width": "of the model",
    "layers": "of the model, and of each half of an encoder-decoder",
    "length": "tokens of a row",
    "batch": "rows",
    "vocab": "size of the vocabulary",
}


def default_shape() -> BenchShape:
    """Of a laptop's size on CPU, of GPT-2 small's on an accelerator."""
    if jax.default_backend() == "cpu":
        return BenchShape(width=256, layers=4, length=256, batch=8, vocab=8192)
    return BenchShape(width=768, layers=12, length=1024, batch=16, vocab=50257)


def run_config(objective: str, shape: BenchShape) -> RunConfig:
    """A run of that size, with blocks like those of GPT-2, BERT, T5 and XLNet, on bytes of Python source."""
    config = base_config(objective)
    config.tokenizer.kind = "bytes"
    config.data.sequence_length = shape.length
    config.train.batch_size = shape.batch
    model = config.model
    model.vocab_size = shape.vocab
    model.width = shape.width
    model.num_layers = shape.layers
    model.attention.num_heads = max(1, shape.width // 64)
    model.position.max_length = shape.length
    style(config)
    return resolve(config)


def style(config: ConfigDict) -> None:
    """Makes the blocks those of the best known model of the kind; pairs of texts where they are needed."""
    model = config.model
    if model.kind == "encoder":
        model.block_layout = "post"
        model.embedding.norm = True
    if model.kind == "encoder_decoder":
        model.position.kind = "relative_bias"
        model.norm.kind = "rmsnorm"
        model.attention.qkv_bias = False
        model.attention.out_bias = False
        model.feedforward.bias = False
    if model.kind == "two_stream":
        model.block_layout = "post"
        model.position.kind = "relative_sinusoidal"
    if config.objective.name == "recurrent_lm":
        model.block_layout = "post"
        model.position.kind = "relative_sinusoidal"
    if config.objective.name == "text_to_text":
        config.data.source = "docstrings"
