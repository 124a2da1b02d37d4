"""A trained encoder or decoder as the start of a model of another kind.

    decoder -> encoder           attention sees both sides (LLM2Vec: BehnamGhader et al. 2024)
    decoder -> encoder_decoder   both stacks begin as the decoder, cross-attention as its self-attention
                                 (T5Gemma: Zhang et al. 2025)
    encoder -> decoder           attention sees what came before (warm start: Rothe et al. 2020)
    encoder -> encoder_decoder   both stacks begin as the encoder, cross-attention is drawn
                                 (BERT2BERT: Rothe et al. 2020)

Every matrix is taken over as it is; the models have to be trained before they are of use in their new kind.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from tlx.base import tree
from tlx.base.errors import ConfigError, one_of
from tlx.models.config import ModelConfig
from tlx.models.transformer import Transformer
from tlx.parallel import unbox

PAIRS = {
    ("decoder", "encoder"),
    ("decoder", "encoder_decoder"),
    ("encoder", "decoder"),
    ("encoder", "encoder_decoder"),
}
"""(kind of the trained model, kind that it can be converted to)."""

CrossAttention = Literal["copy", "random"]
"""Initial cross-attention: the stack's self-attention, or drawn."""


def convert_kind(
    model: ModelConfig,
    params: Mapping[str, Any],
    kind: str,
    cross_attention: CrossAttention | None = None,
    seed: int = 0,
) -> tuple[ModelConfig, dict[str, Any]]:
    """Convert the parameters of a model to those of a model of another kind.

    Args:
        model: The trained model, its vocab_size known.
        params: Its parameters {"model": ...}; heads are left behind.
        kind: "encoder", "decoder" or "encoder_decoder".
        cross_attention: Initial cross-attention of an encoder-decoder; None: "copy" of a decoder, "random" of an
            encoder, as the papers have it.
        seed: Seed of what is drawn.

    Returns:
        The config of the new model, and its parameters {"model": ...} as numpy arrays.

    Raises:
        ConfigError: For kinds that are not converted, or a part that the new kind cannot have.
    """
    converted = _converted_config(model, kind)
    if cross_attention is None:
        cross_attention = "copy" if model.kind == "decoder" else "random"
    flat = {path: np.asarray(leaf) for path, leaf in tree.flatten(params["model"]).items()}
    sources = dict(_renamed(flat, model.kind, kind, cross_attention))
    rng = np.random.default_rng(seed)
    shapes = _shapes(converted)
    values = {
        path: sources[path] if path in sources else _drawn(rng, path, shapes[path], model) for path in shapes
    }
    for path, leaf in shapes.items():
        if values[path].shape != leaf.shape:
            raise ConfigError(
                f"model.kind = {kind!r}: {path} has the shape {values[path].shape} in the {model.kind} and "
                f"{leaf.shape} in the new model"
            )
    unused = sorted(sources.keys() - shapes.keys())
    if unused:
        raise ConfigError(f"model.kind = {kind!r}: the new model has no {', '.join(unused[:5])}")
    return converted, {"model": tree.unflatten(values)}


def _converted_config(model: ModelConfig, kind: str) -> ModelConfig:
    """Return the config of the new model; ConfigError where a part of the old one cannot be in it."""
    if (model.kind, kind) not in PAIRS:
        legal = [target for source, target in sorted(PAIRS) if source == model.kind]
        if not legal:
            raise ConfigError(
                f"model.kind = {model.kind!r}: only an encoder or a decoder is converted to another kind"
            )
        raise ConfigError(one_of("the kind to convert to", kind, legal))
    if model.position.kind == "relative_bias":
        raise ConfigError(
            "model.position.kind = 'relative_bias': its buckets mean other distances where attention sees one side "
            "alone, so that the table cannot be taken over"
        )
    if model.adapters.any:
        raise ConfigError("model.adapters: merge them first (tlx convert merge)")
    # An imported bare encoder has no output layer, a decoder needs one: the token table.
    head = dataclasses.replace(model.head, absent=model.head.absent and kind == "encoder")
    if model.head.absent and not model.head.tied:
        head = dataclasses.replace(head, tied=True)
    converted = dataclasses.replace(model, kind=kind, head=head)
    converted.validate()
    return converted


def _renamed(
    flat: Mapping[str, np.ndarray], source: str, kind: str, cross_attention: CrossAttention
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (path in the new model, values) of what is taken over."""
    stacks = ("encoder", "decoder") if kind == "encoder_decoder" else (kind,)
    for path, leaf in flat.items():
        stack, _, rest = path.partition("/")
        if stack != source:
            yield path, leaf
            continue
        for new_stack in stacks:
            yield f"{new_stack}/{rest}", leaf
        is_attention = rest.startswith(("blocks/attention/", "blocks/attention_norm/"))
        if kind == "encoder_decoder" and is_attention and cross_attention == "copy":
            cross = rest.replace("blocks/attention/", "blocks/cross_attention/", 1)
            yield f"decoder/{cross.replace('blocks/attention_norm/', 'blocks/cross_norm/', 1)}", leaf


def _shapes(model: ModelConfig) -> dict[str, Any]:
    """Return the abstract parameters of a model by path, without computing any."""
    ids = jax.ShapeDtypeStruct((1, 8), jnp.int32)
    prefixes = ("encoder_", "decoder_") if model.kind == "encoder_decoder" else ("",)
    batch = {prefix + name: ids for prefix in prefixes for name in ("tokens", "positions", "segments")}
    key = jax.eval_shape(lambda: jax.random.key(0))
    return tree.flatten(unbox(jax.eval_shape(Transformer(model).init, key, batch)["params"]))


def _drawn(rng: np.random.Generator, path: str, leaf: Any, model: ModelConfig) -> np.ndarray:
    """Draw a parameter that the old model does not have, as it begins in a new one."""
    name = path.rpartition("/")[2]
    if name == "scale":
        return np.full(leaf.shape, 0.0 if model.norm.unit_offset else 1.0, leaf.dtype)
    if name == "bias":
        return np.zeros(leaf.shape, leaf.dtype)
    return rng.normal(0.0, model.block("encoder").std(model.width), leaf.shape).astype(leaf.dtype)
