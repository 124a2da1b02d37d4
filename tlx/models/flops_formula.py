"""FLOPs of a model in closed form: what models/flops_traced.py counts in the traced step, without tracing it.

Matrix multiplications only, two operations a multiply-add; attention is counted whole, causal or not, and
logits over the padded vocabulary, because that is what is computed.
"""

import math
from typing import NamedTuple

from tlx.models.config import ModelConfig
from tlx.nn.adaptive import bounds, widths
from tlx.nn.config import BlockConfig
from tlx.nn.disentangled import span


class BatchShape(NamedTuple):
    """Dims of a batch. targets: places of a row that are predicted; 0: all of the (decoder's) row."""

    rows: int
    length: int  # of the encoder, where there are two towers
    decoder_length: int = 0
    targets: int = 0
    memory: int = 0  # tokens of memory before each row
    characters: int = 0  # of a token, where a model reads them


class Flops(NamedTuple):
    """Of one batch. training: forward and backward, nothing computed twice."""

    forward: int
    training: int


def model_flops(cfg: ModelConfig, shape: BatchShape, masked_head: bool = False) -> Flops:
    """A step of a model and its vocabulary head. masked_head: with BERT's transform before the table.

    Every product costs its two gradients once more, but those with a factor that has no gradient: the
    sinusoids of relative attention, and the choice of experts.
    """
    rows, length = shape.rows, shape.length
    forward = constant = 0
    if cfg.kind == "bilstm":
        return _bilstm(cfg, shape)
    if cfg.kind == "two_stream":
        forward, constant = _two_streams(cfg, shape)
    elif cfg.kind == "encoder_decoder":
        forward += _tower(cfg.block("encoder"), rows, length, 0)[0]
        decoder = _tower(cfg.block("decoder"), rows, shape.decoder_length, 0, cross=length)
        forward += decoder[0] + _front(cfg, rows, length + shape.decoder_length)
    else:
        block = cfg.block("decoder" if cfg.kind == "decoder" else "encoder")
        forward, constant = _tower(block, rows, length, shape.memory)
        forward += (
            _front(cfg, rows, length) + 2 * rows * length * cfg.embedding.conv_kernel_size * cfg.width**2
        )
    places = rows * (shape.targets or shape.decoder_length or length)
    inner = cfg.embedding.width or cfg.width
    if masked_head and cfg.head.transform:
        forward += 2 * places * cfg.width * inner
    forward += _output(cfg, places, inner if cfg.head.tied else cfg.width)
    return Flops(forward, 3 * forward - constant)


def nonembedding_params(cfg: ModelConfig) -> int:
    """Kernels of the layers: what Kaplan et al. call N (no tables, biases or norms)."""
    if cfg.kind == "bilstm":
        cell = cfg.recurrent.cell_dim
        return 2 * cfg.num_layers * 9 * cfg.width * cell
    if cfg.kind == "encoder_decoder":
        encoder, decoder = cfg.block("encoder"), cfg.block("decoder")
        attention = _attention_params(decoder)
        return _layers_params(encoder) + _layers_params(decoder) + decoder.num_layers * attention
    return _layers_params(cfg.block("decoder" if cfg.kind == "decoder" else "encoder"))


def _attention_params(block: BlockConfig) -> int:
    heads, kv_heads = block.attention.num_heads, block.num_kv_heads
    return block.width * block.head_dim * 2 * (heads + kv_heads)


def _layers_params(block: BlockConfig) -> int:
    part, matrices = block.feedforward, 3 if block.feedforward.gated else 2
    each = _attention_params(block) + matrices * block.width * block.ff_dim * max(1, part.num_experts)
    each += block.width * part.num_experts  # the router
    position, square = block.position, block.width * block.attention.num_heads * block.head_dim
    if position.kind == "relative_sinusoidal":
        each += square
    if position.kind == "disentangled" and not position.shared_projections:
        each += 2 * square
    return block.num_layers * each


def _output(cfg: ModelConfig, places: int, width: int) -> int:
    """Logits of every id; of every cluster's, where there are some, and of the clusters."""
    part = cfg.embedding
    if not part.cutoffs:
        return 2 * places * width * cfg.padded_vocab
    edges = bounds(part.cutoffs, cfg.padded_vocab)
    each = widths(cfg.width, part.cutoffs, part.divisor)
    products = sum(size * (last - first) for size, (first, last) in zip(each, edges, strict=True))
    products += cfg.width * len(part.cutoffs)
    return 2 * places * (products + (cfg.width * sum(each) if part.divisor > 1 else 0))


def _front(cfg: ModelConfig, rows: int, length: int) -> int:
    part = cfg.embedding
    if part.cutoffs and part.divisor > 1:
        return 2 * rows * length * cfg.width * sum(widths(cfg.width, part.cutoffs, part.divisor))
    factor = part.width
    return 2 * rows * length * factor * cfg.width if factor and factor != cfg.width else 0


def _attend(block: BlockConfig, rows: int, queries: int, keys: int) -> int:
    """Queries, logits, weighted values and output; keys and values are `_keys_values`."""
    heads = block.attention.num_heads * block.head_dim
    return 2 * rows * queries * (2 * block.width * heads + 2 * keys * heads)


def _keys_values(block: BlockConfig, rows: int, keys: int) -> int:
    return 2 * rows * keys * block.width * 2 * block.num_kv_heads * block.head_dim


def _feed(block: BlockConfig, rows: int, length: int) -> int:
    return 2 * rows * length * block.width * block.ff_dim * (3 if block.feedforward.gated else 2)


def _experts(block: BlockConfig, rows: int, length: int) -> tuple[int, int]:
    """(forward FLOPs of experts and their router, those whose other factor is a choice).

    Without a capacity every expert reads every token; with one, as many as it has room for, and to collect
    and to hand back the tokens are products too.
    """
    part = block.feedforward
    count, chosen, tokens = part.num_experts, part.experts_per_token, rows * length
    loads = 2 * tokens * count  # sums over the tokens, of choices and of probabilities
    shared, constant = 2 * tokens * block.width * count + 2 * loads, 3 * loads
    if not part.capacity_factor:
        gates, returned = 2 * tokens * count * chosen, 2 * tokens * count * block.width
        return shared + gates + count * _feed(block, rows, length) + returned, constant + gates
    room = max(1, math.ceil(part.capacity_factor * length * chosen / count))
    gates, moved = 2 * tokens * count * room * chosen, 2 * tokens * count * room * block.width
    return shared + gates + 2 * moved + count * _feed(block, rows, room), constant + gates + moved


def _disentangled(block: BlockConfig, rows: int, length: int) -> int:
    """Content with positions and positions with content, and the distances' two projections."""
    heads = block.attention.num_heads * block.head_dim
    products = 2 * 2 * rows * length * (2 * length - 1) * heads
    return products + 2 * 2 * 2 * span(block.position) * block.width * heads


def _relative(block: BlockConfig, rows: int, queries: int, distances: int) -> tuple[int, int]:
    """Products of queries with distances, and those of the distances' sinusoids with their kernel."""
    heads = block.attention.num_heads * block.head_dim
    return 2 * rows * queries * distances * heads, 2 * distances * block.width * heads


def _tower(block: BlockConfig, rows: int, length: int, memory: int, cross: int = 0) -> tuple[int, int]:
    """(forward FLOPs, those among them whose input is constant) of all layers."""
    keys, constant = memory + length, 0
    layer = _attend(block, rows, length, keys) + _keys_values(block, rows, keys)
    if block.feedforward.num_experts:
        products, constant = _experts(block, rows, length)
        layer += products
    else:
        layer += _feed(block, rows, length)
    if block.position.kind == "disentangled":
        layer += _disentangled(block, rows, length)
    if block.position.kind == "relative_sinusoidal":
        products, constant = _relative(block, rows, length, length + keys - 1)
        layer += products + constant
    if cross:
        layer += _attend(block, rows, length, cross) + _keys_values(block, rows, cross)
    return block.num_layers * layer, block.num_layers * constant


def _two_streams(cfg: ModelConfig, shape: BatchShape) -> tuple[int, int]:
    """As `_tower`, for content of the whole row and queries at the targets."""
    block, rows, length = cfg.block("encoder"), shape.rows, shape.length
    keys = shape.memory + length
    layer, constant = _keys_values(block, rows, keys), 0
    for queries in (length, shape.targets):
        products, sinusoids = _relative(block, rows, queries, length + keys - 1)
        layer += _attend(block, rows, queries, keys) + _feed(block, rows, queries) + products + sinusoids
        if cfg.position.segment_relative:  # each query with the vectors of the same and of another segment
            layer += 4 * rows * queries * cfg.attention.num_heads * block.head_dim
        constant += sinusoids
    return block.num_layers * layer, block.num_layers * constant


def _bilstm(cfg: ModelConfig, shape: BatchShape) -> Flops:
    """Both directions over a row, and the characters of one token more, which each direction lacks."""
    part, width = cfg.recurrent.characters, cfg.width
    wide = part.num_filters
    token = sum((shape.characters - size + 1) * size * part.width * count for size, count in part.filters)
    token += 2 * part.num_highways * wide**2 + wide * width
    place = 2 * (cfg.num_layers * 9 * width * cfg.recurrent.cell_dim + width * cfg.padded_vocab)
    forward = 2 * shape.rows * ((shape.length + 1) * token + shape.length * place)
    return Flops(forward, 3 * forward)
