"""Losses between the layers of a student and its teacher (TinyBERT): attention logits, hidden states and embeddings.

Jiao et al. 2020, section 3.2, and huawei-noah/Pretrained-Language-Model TinyBERT. Student layer m of M learns from
teacher layer g(m), the layer map (from 1; none is the uniform map m N / M). Means are over tokens and over pairs of
tokens that see each other; the official ones count padding too.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tlx.base.errors import ConfigError
from tlx.base.term import Term, Terms
from tlx.models.config import ModelConfig
from tlx.objectives.shared.base import Batch


class MatchingWeights(NamedTuple):
    """Coefficients in the loss."""

    attention: float
    """Of the attention logits, a sum over layers."""
    hidden: float
    """Of the layers' outputs, a sum over layers."""
    embedding: float
    """Of what the first layer reads."""


class LayerOutputs(NamedTuple):
    """Outputs of an encoder and of its layers, for the losses."""

    hidden: jax.Array
    """The last layer's output [B, T, D]."""
    states: list[jax.Array]
    """H_0, which the first layer reads, and H of the layers that were asked for, [B, T, D] each."""
    logits: list[jax.Array]
    """Attention logits of these layers, [B, N, T, S] each."""


def layer_outputs(lm: Any, batch: Batch, layers: tuple[int, ...], keys: jax.Array | None) -> LayerOutputs:
    """Run an encoder and return what is compared of some of its layers.

    Args:
        lm: A Transformer of kind "encoder".
        batch: tokens, positions and segments [B, T], and what else the model reads.
        layers: The layers, counted from 1.
        keys: A PRNG key for each row; None draws nothing.

    Returns:
        The outputs.

    Raises:
        ConfigError: Layers are not all alike.
    """
    hidden, inputs = lm.with_layers(batch, keys=keys)
    if inputs is None:
        raise ConfigError(
            "a teacher's layers are learned by layers that are all alike, without a convolution"
        )
    # inputs[m] is what layer m + 1 reads, hence what layer m gives; the last output is `hidden`.
    states = [hidden if m == lm.cfg.num_layers else inputs[m] for m in (0, *layers)]
    return LayerOutputs(hidden, states, lm.content_logits(batch, inputs, tuple(m - 1 for m in layers)))


def matching_terms(
    student: LayerOutputs, teacher: LayerOutputs, segments_BT: jax.Array, weights: MatchingWeights
) -> Terms:
    """Compare layers, those of the student brought to the teacher's width.

    Args:
        student: Of each of its layers.
        teacher: Of the layers that the map names.
        segments_BT: Segments; 0 is padding.
        weights: Coefficients of the terms.

    Returns:
        "embedding_loss", "hidden_loss" and "attention_loss"; those with the weight 0 are metrics.
    """
    states, logits = jax.lax.stop_gradient((teacher.states, teacher.logits))
    embedding, *hidden_errors = [
        state_error(x, y, segments_BT) for x, y in zip(student.states, states, strict=True)
    ]
    attention_errors = [pair_error(x, y, segments_BT) for x, y in zip(student.logits, logits, strict=True)]
    return {
        "embedding_loss": embedding._replace(loss_weight=weights.embedding),
        "hidden_loss": summed(hidden_errors, weights.hidden),
        "attention_loss": summed(attention_errors, weights.attention),
    }


def checked_layer_map(
    layers: tuple[int, ...], student: ModelConfig, teacher: ModelConfig, field: str
) -> tuple[int, ...]:
    """Return g(1), ..., g(M).

    Args:
        layers: The map as a config has it; () is the uniform one.
        student: The student's architecture.
        teacher: The teacher's.
        field: Name of the map in messages.

    Returns:
        A layer of the teacher, from 1, for each of the student's.

    Raises:
        ConfigError: There is no such map, or the layers cannot be compared.
    """
    count = student.num_layers
    depth = teacher.num_layers
    if not layers and depth % count:
        raise ConfigError(
            f"{field} is empty, and the teacher's {depth} layers are no multiple of "
            f"model.num_layers = {count}; name one of 1 to {depth} for each"
        )
    layers = layers or tuple(m * depth // count for m in range(1, count + 1))
    if len(layers) != count or not all(1 <= layer <= depth for layer in layers):
        raise ConfigError(
            f"{field} = {layers} must name one of the teacher's layers 1 to {depth} for each "
            f"of the {count} of the model"
        )
    for model in (student, teacher):
        if model.position.kind in ("relative_sinusoidal", "relative_bias", "disentangled"):
            raise ConfigError(
                "layers are compared by logits of content alone: position.kind = "
                f"{model.position.kind!r} has other terms"
            )
    if student.attention.num_heads != teacher.attention.num_heads:
        raise ConfigError(
            f"model.attention.num_heads = {student.attention.num_heads} must be the teacher's "
            f"{teacher.attention.num_heads}, whose logits are compared head by head"
        )
    return layers


def state_error(x_BTD: jax.Array, y_BTD: jax.Array, segments_BT: jax.Array) -> Term:
    """Average the squared difference of the tokens' vectors.

    Args:
        x_BTD: The student's vectors.
        y_BTD: The teacher's.
        segments_BT: Segments; 0 is padding.

    Returns:
        The term, over tokens.
    """
    real = (segments_BT > 0).astype(jnp.float32)
    squares = jnp.mean(jnp.square(x_BTD.astype(jnp.float32) - y_BTD.astype(jnp.float32)), axis=-1)
    return Term(jnp.sum(squares * real), jnp.sum(real))


def pair_error(x_BNTS: jax.Array, y_BNTS: jax.Array, segments_BT: jax.Array) -> Term:
    """Average the squared difference over heads and the pairs of tokens of one document.

    Args:
        x_BNTS: The student's attention logits.
        y_BNTS: The teacher's.
        segments_BT: Segments; 0 is padding.

    Returns:
        The term, over pairs.
    """
    seen = (segments_BT[:, :, None] == segments_BT[:, None]) & (segments_BT[:, None] > 0)
    squares = jnp.mean(jnp.square(x_BNTS - y_BNTS), axis=1)
    return Term(jnp.sum(squares * seen), jnp.sum(seen.astype(jnp.float32)))


def summed(terms: list[Term], loss_weight: float) -> Term:
    """Return the sum of means that have one weight."""
    total: Any = sum(term.sum for term in terms)
    return Term(total, terms[0].weight, loss_weight)
