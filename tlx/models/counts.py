"""FLOPs of a model in closed form: what tlx.models.flops counts in the traced step, without tracing it.

Matrix multiplications only, two operations a multiply-add; attention is counted whole, causal or not, and
logits over the padded vocabulary, because that is what is computed.
"""

from typing import NamedTuple

from tlx.models.config import ModelConfig
from tlx.nn.config import BlockConfig


class Shape(NamedTuple):
    """Dims of a batch. targets: places of a row that are predicted; 0: all of the (decoder's) row."""

    rows: int
    length: int  # of the encoder, where there are two towers
    decoder_length: int = 0
    targets: int = 0
    memory: int = 0  # tokens of memory before each row


class Flops(NamedTuple):
    """Of one batch. training: forward and backward, nothing computed twice."""

    forward: int
    training: int


def model_flops(cfg: ModelConfig, shape: Shape, masked_head: bool = False) -> Flops:
    """A step of a model and its vocabulary head. masked_head: with BERT's transform before the table.

    Every product costs its two gradients once more, but that of relative attention with its sinusoids,
    which have no gradient.
    """
    rows, length = shape.rows, shape.length
    forward = constant = 0
    if cfg.kind == "two_stream":
        forward, constant = _two_streams(cfg, shape)
    elif cfg.kind == "encoder_decoder":
        forward += _tower(cfg.block("encoder"), rows, length, 0)[0]
        decoder = _tower(cfg.block("decoder"), rows, shape.decoder_length, 0, cross=length)
        forward += decoder[0] + _front(cfg, rows, length + shape.decoder_length)
    else:
        block = cfg.block("decoder" if cfg.kind == "decoder" else "encoder")
        forward, constant = _tower(block, rows, length, shape.memory)
        forward += _front(cfg, rows, length)
    places = rows * (shape.targets or shape.decoder_length or length)
    inner = cfg.embedding.factor or cfg.width
    if masked_head and cfg.head.transform:
        forward += 2 * places * cfg.width * inner
    forward += 2 * places * (inner if cfg.head.tied else cfg.width) * cfg.padded_vocab
    return Flops(forward, 3 * forward - constant)


def nonembedding_params(cfg: ModelConfig) -> int:
    """Kernels of the layers: what Kaplan et al. call N (no tables, biases or norms)."""
    if cfg.kind == "encoder_decoder":
        encoder, decoder = cfg.block("encoder"), cfg.block("decoder")
        attention = _attention_params(decoder)
        return _layers_params(encoder) + _layers_params(decoder) + decoder.num_layers * attention
    return _layers_params(cfg.block("decoder" if cfg.kind == "decoder" else "encoder"))


def _attention_params(block: BlockConfig) -> int:
    heads, kv_heads = block.attention.num_heads, block.num_kv_heads
    return block.width * block.head_dim * 2 * (heads + kv_heads)


def _layers_params(block: BlockConfig) -> int:
    matrices = 3 if block.feedforward.gated else 2
    relative = block.width * block.attention.num_heads * block.head_dim
    relative = relative if block.position.kind == "relative" else 0
    each = _attention_params(block) + matrices * block.width * block.hidden + relative
    return block.num_layers * each


def _front(cfg: ModelConfig, rows: int, length: int) -> int:
    factor = cfg.embedding.factor
    return 2 * rows * length * factor * cfg.width if factor and factor != cfg.width else 0


def _attend(block: BlockConfig, rows: int, queries: int, keys: int) -> int:
    """Queries, logits, weighted values and output; keys and values are `_keys_values`."""
    heads = block.attention.num_heads * block.head_dim
    return 2 * rows * queries * (2 * block.width * heads + 2 * keys * heads)


def _keys_values(block: BlockConfig, rows: int, keys: int) -> int:
    return 2 * rows * keys * block.width * 2 * block.num_kv_heads * block.head_dim


def _feed(block: BlockConfig, rows: int, length: int) -> int:
    return 2 * rows * length * block.width * block.hidden * (3 if block.feedforward.gated else 2)


def _relative(block: BlockConfig, rows: int, queries: int, distances: int) -> tuple[int, int]:
    """Products of queries with distances, and those of the distances' sinusoids with their kernel."""
    heads = block.attention.num_heads * block.head_dim
    return 2 * rows * queries * distances * heads, 2 * distances * block.width * heads


def _tower(block: BlockConfig, rows: int, length: int, memory: int, cross: int = 0) -> tuple[int, int]:
    """(forward FLOPs, those among them whose input is constant) of all layers."""
    keys, constant = memory + length, 0
    layer = _attend(block, rows, length, keys) + _keys_values(block, rows, keys) + _feed(block, rows, length)
    if block.position.kind == "relative":
        products, constant = _relative(block, rows, length, length + keys - 1)
        layer += products + constant
    if cross:
        layer += _attend(block, rows, length, cross) + _keys_values(block, rows, cross)
    return block.num_layers * layer, block.num_layers * constant


def _two_streams(cfg: ModelConfig, shape: Shape) -> tuple[int, int]:
    """As `_tower`, for content of the whole row and queries at the targets."""
    block, rows, length = cfg.block("encoder"), shape.rows, shape.length
    keys = shape.memory + length
    layer, constant = _keys_values(block, rows, keys), 0
    for queries in (length, shape.targets):
        products, sinusoids = _relative(block, rows, queries, length + keys - 1)
        layer += _attend(block, rows, queries, keys) + _feed(block, rows, queries) + products + sinusoids
        constant += sinusoids
    return block.num_layers * layer, block.num_layers * constant
