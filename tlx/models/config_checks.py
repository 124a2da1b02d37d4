"""Checks of a ModelConfig: the Evolved Transformer's cells, quantisation, networks of prefixes."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tlx.base.errors import ConfigError
from tlx.nn.evolved import wide_heads

if TYPE_CHECKING:
    from tlx.models.config import ModelConfig


def check_evolved(model: "ModelConfig") -> None:
    """Raise ConfigError where the Evolved Transformer's cells are combined with what they exclude."""
    if model.block_layout != "evolved":
        return
    # Two attentions of different numbers of heads cannot share a bias by relative positions.
    is_absolute = model.position.kind in ("none", "learned", "sinusoidal")
    network = model.feedforward
    is_plain_network = not (network.num_experts or network.gated or network.ff_dim or model.decoder_ff_dim)
    is_plain = is_plain_network and not (model.adapters.bottleneck_dim or model.share_layers)
    if model.kind != "encoder_decoder" or not is_absolute or not is_plain:
        raise ConfigError(
            "model.block_layout = 'evolved': only an encoder_decoder with position.kind = 'learned', 'sinusoidal' or "
            "'none', without experts, feedforward.gated, ff_dim, decoder_ff_dim, adapters.bottleneck_dim and "
            "share_layers, has such cells"
        )
    # Heads of both attentions divide the width, so that one cache holds the keys of both.
    heads = wide_heads(model.num_decoder_heads or model.attention.num_heads)
    is_multi_head = not (model.attention.num_kv_heads or model.attention.head_dim)
    if model.width % 2 or model.width % heads or not is_multi_head:
        raise ConfigError(
            f"model.width = {model.width}: with block_layout = 'evolved' it must be a multiple of 2 and of {heads} "
            "(heads of the decoder's first attention), and attention.num_kv_heads and head_dim be 0"
        )
    if model.parametrization.name != "standard":
        raise ConfigError(
            f"model.parametrization.name = {model.parametrization.name!r}: cells of block_layout = 'evolved' have "
            "'standard'"
        )


def check_quantization(model: "ModelConfig") -> None:
    """Raise ConfigError where bits or groups are not legal, or not of such a model."""
    part = model.quantization
    numbers = {"bits": part.bits, "weight_bits": part.weight_bits, "table_bits": part.table_bits}
    numbers |= {f"layer_bits[{i}]": bits for i, bits in enumerate(part.layer_bits)}
    for name, bits in numbers.items():
        if bits not in range(2, 9) and (bits or name.startswith("layer_bits")):
            raise ConfigError(f"model.quantization.{name} = {bits} must be 2 to 8, or 0 (none)")
    if not 0 <= part.decay < 1:
        raise ConfigError(f"model.quantization.decay = {part.decay} must be in [0, 1)")
    has_parts = part.integers or part.weight_bits or part.layer_bits or part.table_bits or part.groups != 1
    if has_parts and not part.bits:
        raise ConfigError(
            "model.quantization.integers, weight_bits, layer_bits, table_bits and groups need "
            "model.quantization.bits, 2 to 8"
        )
    if part.bits and (model.matmul != "dtype" or model.feedforward.num_experts or model.kind == "bilstm"):
        raise ConfigError(
            f"model.quantization.bits = {part.bits}: not with matmul = {model.matmul!r} (choose 'dtype'), with "
            "experts or for a bilstm"
        )
    _check_layer_bits(model)
    _check_quantization_groups(model)


def _check_layer_bits(model: "ModelConfig") -> None:
    """Raise ConfigError where there are not as many numbers of bits as layers, or layers are no ones of their own."""
    part = model.quantization
    if not part.layer_bits:
        return
    # The numbers are those of a layer's index, whichever stack it is of.
    is_alike = model.kind != "encoder_decoder" or model.decoder_layers == model.num_layers
    is_own = model.kind != "two_stream" and not model.share_layers and not model.source_encoder_layers
    if len(part.layer_bits) != model.num_layers or not (is_alike and is_own):
        raise ConfigError(
            f"model.quantization.layer_bits = {part.layer_bits} must have a number for each of model.num_layers = "
            f"{model.num_layers} layers, of each stack alike; not for two_stream, share_layers or "
            "source_encoder_layers"
        )


def _check_quantization_groups(model: "ModelConfig") -> None:
    """Raise ConfigError where groups do not divide the outputs of every kernel and table."""
    groups = model.quantization.groups
    if groups == 1:
        return
    heads = model.attention.num_heads
    inner_width = model.bottleneck.width or model.width
    # Not block().head_dim: that asks JAX for the platform, which processes that have yet to meet must not do.
    head_dim = model.attention.head_dim or inner_width // heads
    sizes = {model.width, inner_width, model.embedding.width or model.width}
    sizes |= {model.feedforward.ff_dim or 4 * inner_width, model.decoder_ff_dim or inner_width}
    sizes |= {heads * head_dim, (model.attention.num_kv_heads or heads) * head_dim}
    if model.num_decoder_heads:
        sizes.add(model.num_decoder_heads * head_dim)
    if model.block_layout == "evolved":
        sizes.add(model.width // 2)
    common = math.gcd(*sizes)
    if groups < 1 or common % groups:
        raise ConfigError(
            f"model.quantization.groups = {groups} does not divide the outputs of every kernel and table, "
            f"{', '.join(map(str, sorted(sizes)))}; choose one of {short(divisors(common))}"
        )


def check_prefix_network(model: "ModelConfig") -> None:
    """Raise ConfigError where a network makes prefixes that are not there, or of layers that are not one's own."""
    adapters = model.adapters
    if not adapters.prefix_hidden:
        return
    is_stack = model.kind in ("encoder", "decoder", "encoder_decoder") and not model.share_layers
    is_plain = model.block_layout != "evolved" and not model.bottleneck.width
    if not (adapters.prefix_length and is_stack and is_plain):
        raise ConfigError(
            f"model.adapters.prefix_hidden = {adapters.prefix_hidden} needs prefix_length, and layers of their own, "
            "without bottleneck.width, in an encoder, decoder or encoder_decoder with another block_layout than "
            "'evolved'"
        )


def divisors(number: int) -> list[int]:
    """Return the divisors of a number, rising."""
    return [n for n in range(1, number + 1) if number % n == 0]


def short(values: Sequence[int]) -> str:
    """List numbers, at most the first and last six."""
    shown = values if len(values) <= 12 else [*values[:6], *values[-6:]]
    return ", ".join(map(str, shown))
