"""The models that are measured, at a given size."""

from typing import Any

import jax

from tlx.bench.shape import BenchShape
from tlx.run import RunConfig, base_config
from tlx.run.checks import resolve


def default_shape() -> BenchShape:
    """Return a laptop's size on CPU, the size of GPT-2 small on an accelerator."""
    if jax.default_backend() == "cpu":
        return BenchShape(width=256, layers=4, length=256, batch=8, vocab=8192)
    return BenchShape(width=768, layers=12, length=1024, batch=16, vocab=50257)


def run_config(objective: str, shape: BenchShape) -> RunConfig:
    """Return a run of `shape` on bytes of Python source, with blocks like those of GPT-2, BERT, T5 and XLNet."""
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
    set_usual_blocks(config)
    return resolve(config, allow=None)


def set_usual_blocks(config: Any) -> None:
    """Set the blocks of the best known model of the config's kind, in place.

    text_to_text also gets a source of text pairs.

    Args:
        config: ConfigDict of a run.
    """
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
    if model.kind == "two_stream" or config.objective.name == "recurrent_lm":
        model.block_layout = "post"
        model.position.kind = "relative_sinusoidal"
    if config.objective.name == "text_to_text":
        config.data.source = "docstrings"
