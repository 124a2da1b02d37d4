"""FLOPs of a model in closed form: what models/flops_traced.py counts in the traced step, without tracing it.

Matrix multiplications only, two operations per multiply-add. Attention is counted whole, causal or not, and
logits over the padded vocabulary, because that is what is computed.
"""

import dataclasses
import math
from typing import NamedTuple

from tlx.models.config import ModelConfig
from tlx.nn.adaptive import bounds, widths
from tlx.nn.config import BlockConfig
from tlx.nn.disentangled import span


class BatchShape(NamedTuple):
    """Sizes of a batch."""

    rows: int
    """Number of rows B."""

    length: int
    """Tokens of a row; of the encoder's in an encoder-decoder."""

    decoder_length: int = 0
    """Tokens of a decoder's row in an encoder-decoder."""

    targets: int = 0
    """Positions of a row that are predicted; 0: all of the row, the decoder's in an encoder-decoder."""

    memory: int = 0
    """Tokens of memory before each row."""

    characters: int = 0
    """Characters of a token, where a model reads them."""


class Flops(NamedTuple):
    """FLOPs of one batch."""

    forward: int
    """Of the forward pass."""

    training: int
    """Of forward and backward pass, nothing rematerialised."""


def model_flops(cfg: ModelConfig, shape: BatchShape, masked_head: bool = False) -> Flops:
    """Count the FLOPs of a step of a model and its vocabulary head.

    Every product costs its two gradients once more, except those with a factor that has no gradient: the
    sinusoids of relative attention, and the choice of experts.

    Args:
        cfg: the model.
        shape: of the batch.
        masked_head: whether BERT's transform stands before the output kernel.

    Returns:
        FLOPs of the forward pass and of a training step.
    """
    if cfg.kind == "bilstm":
        return _bilstm(cfg, shape)
    rows = shape.rows
    length = shape.length
    constant = 0
    if cfg.kind == "two_stream":
        forward, constant = _two_streams(cfg, shape)
    elif cfg.kind == "encoder_decoder":
        forward, _ = _stack(cfg.block("encoder"), rows, length, 0)
        decoder, _ = _stack(cfg.block("decoder"), rows, shape.decoder_length, 0, cross=length)
        forward += decoder + _input_embedding(cfg, rows, length + shape.decoder_length)
        forward += _stack(_source_encoder(cfg), rows, length, 0)[0]
    else:
        block = cfg.block("decoder" if cfg.kind == "decoder" else "encoder")
        forward, constant = _stack(block, rows, length, shape.memory)
        forward += _input_embedding(cfg, rows, length)
        forward += 2 * rows * length * cfg.embedding.conv_kernel_size * cfg.width**2
        if cfg.head.hidden_transform:
            forward += 2 * rows * length * cfg.width**2
    num_targets = rows * (shape.targets or shape.decoder_length or length)
    table_width = cfg.embedding.width or cfg.width
    if cfg.head.half_tied:
        table_width = cfg.width
    # The transform leads to the table's width, where the product with the table begins.
    if masked_head and cfg.head.transform:
        forward += 2 * num_targets * cfg.width * table_width
    forward += _output(cfg, num_targets, table_width if cfg.head.tied else cfg.width)
    return Flops(forward, 3 * forward - constant)


def nonembedding_params(cfg: ModelConfig) -> int:
    """Count the entries of the layers' kernels: N of Kaplan et al. 2020, without tables, biases and norms."""
    if cfg.kind == "bilstm":
        # Two directions; 4 gates from input and from output each, and the projection.
        return 2 * cfg.num_layers * 9 * cfg.width * cfg.recurrent.cell_dim
    if cfg.kind == "encoder_decoder":
        encoder = cfg.block("encoder")
        decoder = cfg.block("decoder")
        cross_attention = decoder.num_layers * decoder.num_attentions * _attention_params(decoder)
        source = _stack_params(_source_encoder(cfg))
        return _stack_params(encoder) + source + _stack_params(decoder) + cross_attention
    return _stack_params(cfg.block("decoder" if cfg.kind == "decoder" else "encoder"))


def _source_encoder(cfg: ModelConfig) -> BlockConfig:
    """Layers of the encoder in front of the encoder, of which there may be none."""
    return dataclasses.replace(cfg.block("encoder"), num_layers=cfg.source_encoder_layers)


def _attention_params(block: BlockConfig) -> int:
    """Kernels of queries, keys, values and output of one layer."""
    heads = 2 * block.attention.num_heads + _num_key_kernels(block) * block.num_kv_heads
    return block.width * block.head_dim * heads


def _num_key_kernels(block: BlockConfig) -> int:
    """Kernels of keys and values of one layer: two, one where they are tied, none where an earlier layer has them."""
    if block.keys == "shared":
        return 0
    return 1 if block.attention.global_tied_values else 2


def _layers(block: BlockConfig) -> list[BlockConfig]:
    """Configs of all layers of a stack, which have the sizes of each."""
    return block.layers if block.has_unlike_layers else [block] * block.num_layers


def _per_layer_params(block: BlockConfig) -> int:
    """Kernels at the end of all layers through which they read something besides the stream."""
    return 2 * block.num_layers * block.width * block.per_layer_dim


def _per_layer_inputs(block: BlockConfig, rows: int, length: int) -> int:
    """The projection before the first layer of what all layers read, and the products at their ends."""
    projection = block.num_layers * block.width * block.per_layer_dim
    return 2 * rows * length * (projection + _per_layer_params(block))


def _state_space_params(block: BlockConfig) -> int:
    """Kernels of the projections of a state space."""
    part = block.state_space
    inner = block.state_heads * part.head_dim
    groups = part.num_groups * part.state_dim
    return block.width * (3 * inner + 2 * groups + block.state_heads)


def _convolution_params(block: BlockConfig) -> int:
    """Kernels of the convolutions of a state space."""
    part = block.state_space
    return part.conv_size * (block.state_heads * part.head_dim + 2 * part.num_groups * part.state_dim)


def _state_space(block: BlockConfig, rows: int, length: int) -> int:
    """Projections, products within chunks, and those with the states between chunks, of one layer."""
    part = block.state_space
    size = min(part.chunk_size, length)
    chunks = rows * math.ceil(length / size)
    inner = block.state_heads * part.head_dim
    within = size * size * (part.num_groups * part.state_dim + inner)
    between = 2 * size * inner * part.state_dim
    return 2 * rows * length * _state_space_params(block) + 2 * chunks * (within + between)


def _bottleneck_params(block: BlockConfig) -> int:
    """Kernels of a layer's projections to and from its inner width, and what values read beyond that width."""
    part = block.bottleneck
    size = block.width * part.width
    if part.attention_input == "narrow":
        return 2 * size
    heads = block.attention.num_heads + 2 * block.num_kv_heads
    wide_reads = (block.width - part.width) * block.head_dim
    if part.attention_input == "stream":
        return 2 * size + heads * wide_reads
    return 3 * size + block.num_kv_heads * wide_reads


def _evolved_params(block: BlockConfig) -> int:
    """Kernels of an Evolved Transformer's cell without its attention, all of which read every token.

    In units of D^2 (So et al. 2019, figure 3). Encoder: gated linear unit 2, dense layer to 4 D beside a convolution
    of 3 to D / 2: 4 + 1.5, separable one from 4 D to D / 2: 2, feed-forward network 8. Decoder: separable
    convolutions to 2 D beside D / 2: 2 + .5, one from 2 D to D: 2, feed-forward network 8.
    """
    # Depthwise filters are no matrix products: a thousandth of the others.
    halves = 25 if block.cross else 35
    return halves * block.width**2 // 2


def _stack_params(block: BlockConfig) -> int:
    """Kernels of all layers, without cross-attention."""
    part = block.feedforward
    position = block.position
    num_matrices = 3 if part.gated else 2
    if block.bottleneck.width:
        block_params = _attention_params(block.inner()) + _bottleneck_params(block)
        networks = block.bottleneck.num_feedforwards * num_matrices * block.inner_width * block.ff_dim
        return block.num_layers * (block_params + networks)
    if block.block_layout == "evolved":
        attention = block.num_attentions * _attention_params(block)
        return block.num_layers * (attention + _evolved_params(block))
    layers = _layers(block)
    num_recurrent = len(block.layers_with("state_space"))
    mixers = sum(_attention_params(layers[index]) for index in block.layers_with("attention"))
    mixers += num_recurrent * (_state_space_params(block) + _convolution_params(block))
    mixers += _per_layer_params(block)
    if not part.absent:
        ff_dims = sum(layer.ff_dim for layer in layers)
        mixers += num_matrices * block.width * ff_dims * max(1, part.num_experts)
    layer = 0
    # The router.
    layer += block.width * part.num_experts
    projection = block.width * block.attention.num_heads * block.head_dim
    if position.kind == "relative_sinusoidal":
        layer += projection
    if position.kind == "disentangled" and not position.shared_projections:
        layer += 2 * projection
    return mixers + block.num_layers * layer


def _output(cfg: ModelConfig, num_targets: int, width: int) -> int:
    """Logits of every id; of every cluster's ids and of the clusters, where there are some."""
    part = cfg.embedding
    if not part.cutoffs:
        return 2 * num_targets * width * cfg.padded_vocab
    ranges = bounds(part.cutoffs, cfg.padded_vocab)
    cluster_widths = widths(cfg.width, part.cutoffs, part.divisor)
    products = sum(size * (last - first) for size, (first, last) in zip(cluster_widths, ranges, strict=True))
    # The clusters as entries of the first softmax.
    products += cfg.width * len(part.cutoffs)
    if part.divisor > 1:
        products += cfg.width * sum(cluster_widths)
    return 2 * num_targets * products


def _input_embedding(cfg: ModelConfig, rows: int, length: int) -> int:
    """Projections of the tables' vectors to the model's width."""
    part = cfg.embedding
    if part.cutoffs and part.divisor > 1:
        return 2 * rows * length * cfg.width * sum(widths(cfg.width, part.cutoffs, part.divisor))
    if part.neighbors:
        return 2 * rows * length * 3 * (part.width or cfg.width) * cfg.width
    if part.width and part.width != cfg.width:
        return 2 * rows * length * part.width * cfg.width
    return 0


def _attend(block: BlockConfig, rows: int, queries: int, keys: int) -> int:
    """Queries, logits, weighted values and output of one layer; keys and values are `_keys_values`."""
    heads = block.attention.num_heads * block.head_dim
    return 2 * rows * queries * (2 * block.width * heads + 2 * keys * heads)


def _keys_values(block: BlockConfig, rows: int, keys: int) -> int:
    return 2 * rows * keys * block.width * _num_key_kernels(block) * block.num_kv_heads * block.head_dim


def _feedforward(block: BlockConfig, rows: int, length: int) -> int:
    return 2 * rows * length * block.width * block.ff_dim * (3 if block.feedforward.gated else 2)


def _experts(block: BlockConfig, rows: int, length: int) -> tuple[int, int]:
    """(forward FLOPs of experts and their router, those whose other factor is a choice).

    Without a capacity every expert reads every token. With one it reads as many as it has room for, and
    dispatching and combining the tokens are products too.
    """
    part = block.feedforward
    num_experts = part.num_experts
    num_tokens = rows * length
    # Sums over the tokens, of choices and of probabilities, for the load-balancing term.
    loads = 2 * num_tokens * num_experts
    router = 2 * num_tokens * block.width * num_experts + 2 * loads
    constant = 3 * loads
    if not part.capacity_factor:
        gates = 2 * num_tokens * num_experts * part.experts_per_token
        combined = 2 * num_tokens * num_experts * block.width
        return router + gates + num_experts * _feedforward(block, rows, length) + combined, constant + gates
    capacity = max(1, math.ceil(part.capacity_factor * length * part.experts_per_token / num_experts))
    gates = 2 * num_tokens * num_experts * capacity * part.experts_per_token
    dispatched = 2 * num_tokens * num_experts * capacity * block.width
    forward = router + gates + 2 * dispatched + num_experts * _feedforward(block, rows, capacity)
    return forward, constant + gates + dispatched


def _disentangled(block: BlockConfig, rows: int, length: int) -> int:
    """Content with positions and positions with content, and the distances' two projections."""
    heads = block.attention.num_heads * block.head_dim
    products = 2 * 2 * rows * length * (2 * length - 1) * heads
    return products + 2 * 2 * 2 * span(block.position) * block.width * heads


def _relative(block: BlockConfig, rows: int, queries: int, distances: int) -> tuple[int, int]:
    """Products of queries with distances, and those of the distances' sinusoids with their kernel."""
    heads = block.attention.num_heads * block.head_dim
    return 2 * rows * queries * distances * heads, 2 * distances * block.width * heads


def _stack(block: BlockConfig, rows: int, length: int, memory: int, cross: int = 0) -> tuple[int, int]:
    """Count all layers of a stack.

    Args:
        block: the layers.
        rows: rows of the batch.
        length: tokens of a row.
        memory: tokens of memory before each row.
        cross: tokens of the encoder's row; 0: no cross-attention.

    Returns:
        (forward FLOPs, those among them whose other factor has no gradient).
    """
    if block.bottleneck.width:
        tokens = rows * length
        inner = block.inner()
        layer = _attend(inner, rows, length, length) + _keys_values(inner, rows, length)
        layer += block.bottleneck.num_feedforwards * _feedforward(inner, rows, length)
        return block.num_layers * (layer + 2 * tokens * _bottleneck_params(block)), 0
    if block.block_layout == "evolved":
        attention = _attend(block, rows, length, length) + _keys_values(block, rows, length)
        if cross:
            attention += _attend(block, rows, length, cross) + _keys_values(block, rows, cross)
        layer = block.num_attentions * attention + 2 * rows * length * _evolved_params(block)
        return block.num_layers * layer, 0
    keys = memory + length
    constant = 0
    layers = _layers(block)
    mixers = sum(
        _attend(layers[index], rows, length, keys) + _keys_values(layers[index], rows, keys)
        for index in block.layers_with("attention")
    )
    mixers += _per_layer_inputs(block, rows, length)
    if "state_space" in block.mixers:
        mixers += len(block.layers_with("state_space")) * _state_space(block, rows, length)
    layer = 0
    if block.feedforward.num_experts:
        products, constant = _experts(block, rows, length)
        layer += products
    elif not block.feedforward.absent:
        mixers += sum(_feedforward(layer_config, rows, length) for layer_config in layers)
    if block.position.kind == "disentangled":
        layer += _disentangled(block, rows, length)
    if block.position.kind == "relative_sinusoidal":
        products, constant = _relative(block, rows, length, length + keys - 1)
        layer += products + constant
    if cross:
        layer += _attend(block, rows, length, cross) + _keys_values(block, rows, cross)
    return mixers + block.num_layers * layer, block.num_layers * constant


def _two_streams(cfg: ModelConfig, shape: BatchShape) -> tuple[int, int]:
    """As `_stack`, for content of the whole row and queries at the targets."""
    block = cfg.block("encoder")
    rows = shape.rows
    length = shape.length
    keys = shape.memory + length
    layer = _keys_values(block, rows, keys)
    constant = 0
    for queries in (length, shape.targets):
        products, sinusoids = _relative(block, rows, queries, length + keys - 1)
        layer += _attend(block, rows, queries, keys) + _feedforward(block, rows, queries)
        layer += products + sinusoids
        if cfg.position.segment_relative:
            # Each query with the vectors of the same and of another segment type.
            layer += 4 * rows * queries * cfg.attention.num_heads * block.head_dim
        constant += sinusoids
    return block.num_layers * layer, block.num_layers * constant


def _bilstm(cfg: ModelConfig, shape: BatchShape) -> Flops:
    """Both directions over a row, and the characters of one more token, which each direction lacks."""
    part = cfg.recurrent.characters
    width = cfg.width
    features = part.num_filters
    token = sum((shape.characters - size + 1) * size * part.width * count for size, count in part.filters)
    token += 2 * part.num_highways * features**2 + features * width
    position = 2 * (cfg.num_layers * 9 * width * cfg.recurrent.cell_dim + width * cfg.padded_vocab)
    forward = 2 * shape.rows * ((shape.length + 1) * token + shape.length * position)
    return Flops(forward, 3 * forward)
