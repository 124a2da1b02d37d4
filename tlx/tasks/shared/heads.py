"""The model under a task, and what turns its hidden states into numbers for the labels."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from tlx.models.config import ModelConfig
from tlx.models.transformer import Transformer
from tlx.models.two_stream import TwoStream, empty_memory
from tlx.nn.dropout import dropout, fold
from tlx.nn.linear import Linear
from tlx.tasks.shared.base import Batch

# Branches of a row's key, outside those of the layers.
_HEAD, _ROWS = 2**21, 2**22


def language_model(cfg: ModelConfig) -> nn.Module:
    """The submodule "model" of a task."""
    return TwoStream(cfg, name="model") if cfg.kind == "two_stream" else Transformer(cfg, name="model")


def hidden_states(lm: nn.Module, batch: Batch, keys_B: jax.Array | None) -> jax.Array:
    """[B, T, D], or [B, R, T, D] where examples are R rows; of the decoder where there are two towers."""
    name = "decoder_tokens" if lm.cfg.kind == "encoder_decoder" else "tokens"
    shape = batch[name].shape
    if len(shape) == 3:
        inputs = {key: value for key, value in batch.items() if value.shape[1:2] == shape[1:2]}
        batch = {key: value.reshape(-1, *value.shape[2:]) for key, value in inputs.items()}
        keys_B = _keys_of_rows(keys_B, shape[1])
    if lm.cfg.kind == "two_stream":
        hidden = _content_stream(lm, batch, keys_B)
    else:
        hidden = lm(batch, keys=keys_B)
    return hidden.reshape(*shape, hidden.shape[-1])


def at_place(hidden: jax.Array, place: jax.Array) -> jax.Array:
    """[..., D] of [..., T, D] at the place of each row; [B, M, D] of [B, T, D] and M places of each."""
    if place.ndim == 2 and hidden.ndim == 3:
        return jnp.take_along_axis(hidden, place[..., None], axis=1)
    return jnp.take_along_axis(hidden, place[..., None, None], axis=-2)[..., 0, :]


def mean_over(hidden_BTD: jax.Array, segments_BT: jax.Array, count: int) -> jax.Array:
    """[B, count, D]: means over the places of segments 1 to `count`; 0 for one that is not there."""
    numbers = jnp.arange(1, count + 1)
    member_BMT = (segments_BT[:, None, :] == numbers[:, None]).astype(jnp.float32)
    sums = jnp.einsum("bmt,btd->bmd", member_BMT, hidden_BTD, preferred_element_type=jnp.float32)
    sizes = jnp.maximum(jnp.sum(member_BMT, axis=-1, keepdims=True), 1)
    return (sums / sizes).astype(hidden_BTD.dtype)


class TextHead(nn.Module):
    """Dropout and a linear map of the hidden state that speaks for a row.

    `pooled`: behind a dense layer with tanh, as encoders (BERT's pooler), XLNet and BART have it.
    """

    cfg: ModelConfig
    outputs: int
    pooled: bool

    @nn.compact
    def __call__(self, hidden: jax.Array, keys_B: jax.Array | None = None) -> jax.Array:
        """float32 [..., outputs] of [B, ..., D]."""
        cfg, block = self.cfg, self.cfg.block("encoder")
        rest = (block.std(cfg.width), True, block.dtype, cfg.param_dtype)
        names, keys_B = ("embed", None), fold(keys_B, _HEAD)
        if self.pooled:
            hidden = jnp.tanh(Linear((cfg.width,), (cfg.width,), names, *rest, name="pooler")(hidden))
        hidden = dropout(hidden, cfg.dropout, keys_B, 0)
        return Linear((cfg.width,), (self.outputs,), names, *rest, name="classifier")(hidden).astype(
            jnp.float32
        )


class TaskHeads(nn.Module):
    """The parameters "heads/TASK"."""

    cfg: ModelConfig
    task: str
    outputs: int
    of_places: bool = False  # a linear map of every place

    def setup(self):
        pooled = self.cfg.kind != "decoder" and not self.of_places
        self.head = TextHead(self.cfg, self.outputs, pooled, name=self.task)

    def __call__(self, hidden: jax.Array, keys_B: jax.Array | None = None) -> jax.Array:
        return self.head(hidden, keys_B)


def _keys_of_rows(keys_B: jax.Array | None, rows: int) -> jax.Array | None:
    """A key for each of the rows of each example, [B * rows]."""
    if keys_B is None:
        return None
    return jnp.stack([fold(keys_B, _ROWS + row) for row in range(rows)], axis=1).reshape(-1)


def _content_stream(lm: TwoStream, batch: Batch, keys_B: jax.Array | None) -> jax.Array:
    """XLNet as an encoder: every place sees all, and the query stream has one place that nobody reads."""
    tokens = batch["tokens"]
    rank, first = jnp.full_like(tokens, -1), jnp.zeros_like(tokens)[:, :1]
    inputs: dict[str, Any] = {name: batch[name] for name in ("tokens", "segments", "positions")}
    if lm.cfg.position.segment_relative:
        inputs["types"] = batch["types"]
    inputs |= {"rank": rank, "query_rank": jnp.zeros_like(tokens), "target_positions": first}
    return lm(inputs, empty_memory(lm.cfg, tokens.shape[0], 0), 0, keys=keys_B).content
