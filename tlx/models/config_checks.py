"""Checks of a ModelConfig: the Evolved Transformer's cells, quantisation, networks of prefixes, unlike layers."""

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


def check_unlike_layers(model: "ModelConfig") -> None:
    """Raise ConfigError where layers of unlike sizes, shared keys or vectors of each layer exclude another part."""
    attention = model.attention
    sizes = {
        "attention.global_head_dim": attention.global_head_dim,
        "attention.shared_layers": attention.shared_layers,
        "embedding.per_layer_dim": model.embedding.per_layer_dim,
        "layer_scalars": int(model.layer_scalars),
    }
    for name, size in sizes.items():
        if size < 0:
            raise ConfigError(f"model.{name} = {size} must be 0 (none) or more")
    if (attention.global_kv_heads or attention.global_tied_values) and not attention.global_head_dim:
        raise ConfigError(
            "model.attention.global_kv_heads and global_tied_values need model.attention.global_head_dim"
        )
    has_both = any(attention.windows) and not all(attention.windows)
    if attention.global_head_dim and not has_both:
        raise ConfigError(
            f"model.attention.global_head_dim = {attention.global_head_dim} is of layers without a window beside "
            "others with one: attention.window_pattern needs both, such as (512, 512, 0)"
        )
    if attention.global_kv_heads < 0 or attention.num_heads % (attention.global_kv_heads or 1):
        raise ConfigError(
            f"model.attention.global_kv_heads = {attention.global_kv_heads} does not divide num_heads = "
            f"{attention.num_heads}; choose 0 or one of {short(divisors(attention.num_heads))}"
        )
    multiplier = model.feedforward.shared_multiplier
    if multiplier < 1 or (multiplier > 1 and not attention.shared_layers):
        raise ConfigError(
            f"model.feedforward.shared_multiplier = {multiplier} must be 1, or more with attention.shared_layers"
        )
    set_fields = [name for name, size in sizes.items() if size]
    if set_fields:
        _check_parts_beside(model, set_fields[0])
    if attention.shared_layers:
        _check_shared_layers(model)


def _check_parts_beside(model: "ModelConfig", name: str) -> None:
    """Raise ConfigError where a model with the field `name` of unlike layers has a part that does not go with it."""
    is_sandwich = model.kind == "decoder" and model.block_layout == "sandwich"
    if not is_sandwich or model.share_layers or model.mixer or model.feedforward.num_experts:
        raise ConfigError(
            f"model.{name}: only a decoder with block_layout = 'sandwich', without share_layers, mixer and experts, "
            "has such layers"
        )
    adapters = model.adapters
    if adapters.prefix_length or adapters.prompt_length or model.quantization.bits:
        raise ConfigError(
            f"model.{name}: not with adapters.prefix_length, adapters.prompt_length and quantization.bits"
        )
    if model.parametrization.name != "standard" or model.position.kind not in ("none", "rotary"):
        raise ConfigError(
            f"model.{name} needs parametrization.name = 'standard' and position.kind = 'rotary' or 'none'"
        )


def _check_shared_layers(model: "ModelConfig") -> None:
    """Raise ConfigError where a layer without keys has none before it to attend to."""
    attention = model.attention
    windows = attention.windows
    has_window = [bool(windows[i % len(windows)]) for i in range(model.num_layers)]
    first = model.num_layers - attention.shared_layers
    if first < 1 or not set(has_window[first:]) <= set(has_window[:first]):
        raise ConfigError(
            f"model.attention.shared_layers = {attention.shared_layers}: before these of model.num_layers = "
            f"{model.num_layers} must be a layer of each of their kinds, with a window and without one"
        )


def divisors(number: int) -> list[int]:
    """Return the divisors of a number, rising."""
    return [n for n in range(1, number + 1) if number % n == 0]


def short(values: Sequence[int]) -> str:
    """List numbers, at most the first and last six."""
    shown = values if len(values) <= 12 else [*values[:6], *values[-6:]]
    return ", ".join(map(str, shown))
