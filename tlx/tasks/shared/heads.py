"""The model under a task, and the head that turns its hidden states into numbers for the labels."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from tlx.models.bilstm import BiLSTM
from tlx.models.config import ModelConfig
from tlx.models.heads import TaskHeadConfig, TextHead
from tlx.models.layer_reader import LayerReader
from tlx.models.transformer import Transformer
from tlx.models.two_stream import TwoStream, empty_memory
from tlx.nn.dropout import fold
from tlx.objectives.shared.base import at_positions
from tlx.tasks.shared.base import Batch

# Branch of a row's key, outside those of the layers and of the head.
_ROWS = 2**22


Model = Transformer | TwoStream | BiLSTM


def language_model(cfg: ModelConfig) -> Model:
    """Return the submodule "model" of a task."""
    kinds: dict[str, Any] = {"two_stream": TwoStream, "bilstm": BiLSTM}
    return kinds.get(cfg.kind, Transformer)(cfg, name="model")


def hidden_states(
    lm: Model, batch: Batch, keys_B: jax.Array | None, heads: "TaskHeads | None" = None
) -> jax.Array:
    """Compute the hidden states of a batch.

    Args:
        lm: The model.
        batch: Arrays of a batch; examples may be K rows each, tokens [B, K, T].
        keys_B: A PRNG key for each example; None draws nothing.
        heads: The task's head, which reads the layers of a bilstm; other models need none.

    Returns:
        [B, T, D] or [B, K, T, D]; of the decoder where there is one, and of the task's own layers over a bilstm.
    """
    name = "decoder_tokens" if lm.cfg.kind == "encoder_decoder" else "tokens"
    shape = batch[name].shape
    if len(shape) == 3:
        inputs = {key: value for key, value in batch.items() if value.shape[1:2] == shape[1:2]}
        batch = {key: value.reshape(-1, *value.shape[2:]) for key, value in inputs.items()}
        keys_B = _row_keys(keys_B, shape[1])
    if isinstance(lm, TwoStream):
        hidden = _content_stream(lm, batch, keys_B)
    elif isinstance(lm, BiLSTM):
        assert heads is not None
        hidden = heads.read(lm(batch, keys=keys_B), batch["segments"], keys_B)
    else:
        hidden = lm(batch, keys=keys_B)
    return hidden.reshape(*shape, hidden.shape[-1])


def select_place(hidden: jax.Array, place: jax.Array) -> jax.Array:
    """Gather the hidden state that represents each row.

    Args:
        hidden: [B, T, D], or [B, K, T, D] where examples are K rows.
        place: Its position, int [B] or [B, K]; [B, P] where a row holds P examples.

    Returns:
        [B, D], [B, K, D] or [B, P, D].
    """
    if place.ndim == 2 and hidden.ndim == 3:
        return at_positions(hidden, place)
    return jnp.take_along_axis(hidden, place[..., None, None], axis=-2)[..., 0, :]


def mean_over(hidden_BTD: jax.Array, segments_BT: jax.Array, count: int) -> jax.Array:
    """Average the hidden states of each example of a row.

    Args:
        hidden_BTD: Hidden states.
        segments_BT: Number of the example that each token belongs to, from 1; 0 is padding.
        count: P, the most examples of a row.

    Returns:
        [B, P, D]; 0 for an example that is not there.
    """
    numbers = jnp.arange(1, count + 1)
    member_BPT = (segments_BT[:, None, :] == numbers[:, None]).astype(jnp.float32)
    sums = jnp.einsum("bpt,btd->bpd", member_BPT, hidden_BTD, preferred_element_type=jnp.float32)
    sizes = jnp.maximum(jnp.sum(member_BPT, axis=-1, keepdims=True), 1)
    return (sums / sizes).astype(hidden_BTD.dtype)


class TaskHeads(nn.Module):
    """The parameters "heads/TASK"."""

    cfg: ModelConfig
    task: str
    outputs: int
    per_token: bool = False
    """Whether every hidden state is mapped, by default without a dense layer."""
    shape: TaskHeadConfig = TaskHeadConfig()
    """Layers of the head."""
    std: float = 0.0
    """Initial standard deviation of the last layer; 0 is the model's own."""
    pooling: str = "token"
    """"mean" where the head gets the mean over a row, which a reader of a bilstm's layers has to know."""

    def setup(self) -> None:
        """Build the head, and over a bilstm the reader of its layers."""
        cfg = self.cfg
        if cfg.kind == "bilstm":
            self.shape.check()
            whole_rows = not self.per_token and self.pooling == "token"
            self.reader = LayerReader(cfg, self.shape, whole_rows, name=f"{self.task}_reader")
            cfg = dataclasses.replace(cfg, width=self.reader.width)
        pooled = self.shape.has_dense(cfg, self.per_token)
        self.head = TextHead(cfg, self.outputs, pooled, self.shape, self.std, name=self.task)

    def read(
        self, layers_LBTD: jax.Array, segments_BT: jax.Array, keys_B: jax.Array | None = None
    ) -> jax.Array:
        """Mix the layers of a bilstm and run the task's own layers on them.

        Args:
            layers_LBTD: The token vectors and each layer's outputs.
            segments_BT: Segment of each token; 0 is padding.
            keys_B: A PRNG key for each row; None draws nothing.

        Returns:
            Hidden states [B, T, 2 U] that the head reads; see LayerReader.
        """
        return self.reader(layers_LBTD, segments_BT, keys_B)

    def __call__(self, hidden: jax.Array, keys_B: jax.Array | None = None) -> jax.Array:
        """Return float32 [..., outputs] of [B, ..., D]."""
        return self.head(hidden, keys_B)


def _row_keys(keys_B: jax.Array | None, rows: int) -> jax.Array | None:
    """Return a key for each of the rows of each example, [B * rows]."""
    if keys_B is None:
        return None
    row_keys: list[Any] = [fold(keys_B, _ROWS + row) for row in range(rows)]
    return jnp.stack(row_keys, axis=1).reshape(-1)


def _content_stream(lm: TwoStream, batch: Batch, keys_B: jax.Array | None) -> jax.Array:
    """Run XLNet as an encoder: every token sees all, and the query stream has one token that nobody reads."""
    tokens = batch["tokens"]
    rank = jnp.full_like(tokens, -1)
    first = jnp.zeros_like(tokens)[:, :1]
    inputs: dict[str, Any] = {name: batch[name] for name in ("tokens", "segments", "positions")}
    if lm.cfg.position.segment_relative:
        inputs["types"] = batch["types"]
    inputs |= {"rank": rank, "query_rank": jnp.zeros_like(tokens), "target_positions": first}
    return lm(inputs, empty_memory(lm.cfg, tokens.shape[0], 0), 0, keys=keys_B).content
