"""XLNet: a content stream and a query stream through the same layers, with memory across segments."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from tlx.models.config import ModelConfig
from tlx.models.transformer import Batch, Output, token_table
from tlx.nn import embed
from tlx.nn.block import Block
from tlx.nn.dropout import dropout, fold
from tlx.nn.embed import EMBEDDING, FINAL, Unembedding
from tlx.nn.mask import Mask
from tlx.nn.stack import layer_params, run_layers
from tlx.parallel.sharding import logical


class Memory(NamedTuple):
    """What a row remembers of the windows before: each layer's inputs and their segments (0: nothing)."""

    hidden: jax.Array  # [B, L, M, D]
    segments: jax.Array  # int[B, M]


class Streams(NamedTuple):
    """What comes out of the two streams, and the memory for the next window."""

    content: jax.Array  # [B, T, D]: each place has seen its own token, as an encoder's
    query: jax.Array  # [B, P, D] at `target_positions`: no place has seen its own
    memory: Memory


def empty_memory(cfg: ModelConfig, batch_size: int, length: int) -> Memory:
    """Nothing remembered: segment 0 is seen by no query."""
    shape = (batch_size, cfg.num_layers, length, cfg.width)
    dtype = jnp.dtype(cfg.block("encoder").dtype)
    return Memory(jnp.zeros(shape, dtype), jnp.zeros((batch_size, length), jnp.int32))


def remember(memory: Memory, inputs_BLTD: jax.Array, segments_BT: jax.Array, reuse: int) -> Memory:
    """The last M of memory and the window's first `reuse` places, without gradient (XLNet: cache_mem)."""
    return Memory(_newest(memory.hidden, inputs_BLTD, reuse), _newest_segments(memory, segments_BT, reuse))


def _newest_segments(memory: Memory, segments_BT: jax.Array, reuse: int) -> jax.Array:
    return _newest(memory.segments[..., None], segments_BT[..., None], reuse)[..., 0]


def _newest(memory: jax.Array, inputs: jax.Array, reuse: int) -> jax.Array:
    """[..., M, D], the last of memory[..., M, D] and the first `reuse` places of inputs[..., T, D]."""
    both = jnp.concatenate([memory, inputs[..., :reuse, :].astype(memory.dtype)], axis=-2)
    return jax.lax.stop_gradient(both[..., both.shape[-2] - memory.shape[-2] :, :])


class TwoStream(nn.Module):
    """Yang et al. 2019, sections 2.3 to 2.6."""

    cfg: ModelConfig

    def setup(self):
        cfg = self.cfg
        self.embedding = token_table(cfg)
        init = logical(nn.initializers.normal(cfg.init.embedding_stddev), ("embed",))
        self.query_embedding = self.param("query_embedding", init, (cfg.width,), jnp.dtype(cfg.param_dtype))
        self.output = Output(cfg)

    @nn.compact
    def __call__(self, batch: Batch, memory: Memory, reuse: int, *, keys: jax.Array | None = None) -> Streams:
        """Both streams of a window.

        batch: tokens, segments, rank, query_rank int[B, T]; target_positions int[B, P]; types where the
        model has a segment term; backwards int[B], 1 for rows whose text is in reverse, to which distances
        have the other sign. Place j is visible to place i where query_rank_i > rank_j; the content
        stream also sees its own place. All of the memory is visible within a segment.
        """
        cfg, block_cfg = self.cfg, self.cfg.block("encoder")
        if self.is_initializing():
            self.unembedding()
        masks, different = self._visibility(batch, memory)
        h_BTD = dropout(self.embedding(batch["tokens"]), cfg.dropout, keys, EMBEDDING)
        places = batch["target_positions"]
        g_BPD = jnp.broadcast_to(self.query_embedding.astype(h_BTD.dtype), (*places.shape, cfg.width))
        g_BPD = dropout(g_BPD, cfg.dropout, keys, EMBEDDING + 2)
        block = Block(block_cfg, parent=None)

        def apply(params, streams, index, memory_BMD):
            layer_keys = fold(keys, index)
            out = block.apply(
                {"params": params},
                *streams,
                memory_BMD,
                places,
                *masks,
                *different,
                layer_keys,
                batch.get("backwards"),
                method=Block.two_streams,
            )
            return out, _newest(memory_BMD, streams[0], reuse)

        def init(key):
            segments = batch["segments"]
            own = block.init(key, h_BTD, Mask(segments, segments), different_BTS=_differ(batch, 0))
            return own["params"]

        blocks = layer_params(self, init, cfg.num_layers, cfg.share_layers)
        (h_BTD, g_BPD), hidden = run_layers(
            (apply,),
            block_cfg,
            blocks,
            (h_BTD, g_BPD),
            jnp.moveaxis(memory.hidden, 1, 0),
            num_layers=cfg.num_layers,
            share=cfg.share_layers,
        )
        last_keys = fold(keys, cfg.num_layers)
        return Streams(
            dropout(h_BTD, cfg.dropout, last_keys, FINAL + 1),
            dropout(g_BPD, cfg.dropout, last_keys, FINAL),
            Memory(jnp.moveaxis(hidden, 0, 1), _newest_segments(memory, batch["segments"], reuse)),
        )

    def unembedding(self) -> Unembedding:
        """As Transformer.unembedding."""
        return self.output(self.embedding.table)

    def logits(self, hidden: jax.Array) -> jax.Array:
        """float32[..., V], V the unpadded vocabulary."""
        return embed.logits(hidden, self.unembedding())[..., : self.cfg.vocab_size]

    def _visibility(self, batch: Batch, memory: Memory):
        """((content mask, query mask), (segment differences of both))."""
        segments, length = batch["segments"], memory.segments.shape[1]
        key_segments = jnp.concatenate([memory.segments, segments], axis=1)
        places = batch["target_positions"]
        seen = batch["query_rank"][:, :, None] > batch["rank"][:, None, :]
        content = seen | jnp.eye(seen.shape[1], dtype=bool)
        query = jnp.take_along_axis(seen, places[:, :, None], axis=1)
        before = ((0, 0), (0, 0), (length, 0))
        masks = (
            Mask(segments, key_segments, length, visible=jnp.pad(content, before, constant_values=True)),
            Mask(
                jnp.take_along_axis(segments, places, axis=1),
                key_segments,
                length,
                visible=jnp.pad(query, before, constant_values=True),
            ),
        )
        different = _differ(batch, length)
        if different is None:
            return masks, (None, None)
        return masks, (different, jnp.take_along_axis(different, places[:, :, None], axis=1))


def _differ(batch: Batch, memory_length: int) -> jax.Array | None:
    """bool[B, T, M + T]: whether query and key are of different types; the memory counts as type 0."""
    if "types" not in batch:
        return None
    types = batch["types"]
    keys = jnp.pad(types, ((0, 0), (memory_length, 0)))
    return types[:, :, None] != keys[:, None, :]
