"""config.json with the groups "encoder" and "decoder" (T5Gemma), and the same keys in one group."""

from collections.abc import Mapping
from typing import Any

from tlx.base.errors import ConfigError, shown

LAYERS = "encoder_layers"
_KINDS = "layer_types"
_COUNT = "num_hidden_layers"
# Keys in which the groups may differ: they say which stack it is, or are read for both.
_OWN = (
    _COUNT,
    _KINDS,
    "is_decoder",
    "use_cache",
    "cross_attention_hidden_size",
    "architectures",
    "_name_or_path",
)


def joined(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the decoder's keys with those outside the groups, and the encoder's number of layers as LAYERS.

    Raises ConfigError for a key in which the two stacks differ.
    """
    if "decoder" not in values:
        return dict(values)
    decoder = dict(values["decoder"])
    encoder = dict(values.get("encoder") or decoder)
    for key in sorted({*encoder, *decoder} - set(_OWN)):
        if key in encoder and key in decoder and encoder[key] != decoder[key]:
            raise ConfigError(
                f"config.json: encoder.{key} = {shown(encoder[key])} and decoder.{key} = {shown(decoder[key])}: tlx "
                "has encoder-decoders whose stacks differ in their number of layers alone"
            )
    kinds = sorted((list(group.get(_KINDS) or []) for group in (encoder, decoder)), key=len)
    if all(kinds) and kinds[0] != kinds[1][: len(kinds[0])]:
        raise ConfigError("config.json: encoder.layer_types and decoder.layer_types repeat unlike patterns")
    flat = {key: value for key, value in values.items() if key not in ("encoder", "decoder")}
    own = {LAYERS: encoder.get(_COUNT, decoder.get(_COUNT)), _KINDS: kinds[1] or None}
    ignored = ("model_type", "is_decoder", "cross_attention_hidden_size")
    return {key: value for key, value in decoder.items() if key not in ignored} | flat | own


def split(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return such keys in the two groups; those of the whole model stand outside too."""
    shared = {key: value for key, value in values.items() if key != LAYERS}
    groups = {}
    for stack, count in (("encoder", values[LAYERS]), ("decoder", values[_COUNT])):
        kinds = values[_KINDS][:count]
        groups[stack] = shared | {_COUNT: count, _KINDS: kinds, "is_decoder": stack == "decoder"}
    outside = ("vocab_size", "dropout_rate", "attention_dropout", "tie_word_embeddings", "initializer_range")
    return groups | {key: values[key] for key in outside}
