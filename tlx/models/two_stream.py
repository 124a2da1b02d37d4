"""XLNet: a content stream and a query stream through the same layers, with memory across segments."""

from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from tlx.models.config import ModelConfig
from tlx.models.transformer import Batch, Output, token_table
from tlx.nn import embed
from tlx.nn.block import Block, BlockInputs, Stream
from tlx.nn.dropout import EMBEDDING, FINAL, dropout, fold
from tlx.nn.embed import Unembedding
from tlx.nn.mask import Mask
from tlx.nn.stack import layer_params, run_layers
from tlx.parallel.sharding import logical

# Sites outside the layers: the query stream's are not those of the content stream (EMBEDDING and FINAL + 1).
_QUERY_EMBEDDING = EMBEDDING + 2
_QUERY_FINAL = FINAL
_CONTENT_FINAL = FINAL + 1


class Memory(NamedTuple):
    """Memory of the windows before, for each row."""

    hidden: jax.Array
    """[B, L, M, D], every layer's inputs."""

    segments: jax.Array
    """int[B, M], their segments; 0: nothing is remembered there."""


class Streams(NamedTuple):
    """The two streams after the last layer, and the memory for the next window."""

    content: jax.Array
    """[B, T, D]: each position has seen its own token, as an encoder's."""

    query: jax.Array
    """[B, P, D] at `target_positions`: no position has seen its own token."""

    memory: Memory
    """Every layer's inputs, for the next window."""


def empty_memory(cfg: ModelConfig, batch_size: int, length: int) -> Memory:
    """Create a memory of nothing: segment 0 is visible to no query.

    Args:
        cfg: the model.
        batch_size: rows B.
        length: tokens M.

    Returns:
        Zeros.
    """
    shape = (batch_size, cfg.num_layers, length, cfg.width)
    dtype = jnp.dtype(cfg.block("encoder").dtype)
    return Memory(jnp.zeros(shape, dtype), jnp.zeros((batch_size, length), jnp.int32))


def remember(memory: Memory, inputs_BLTD: jax.Array, segments_BT: jax.Array, reuse: int) -> Memory:
    """Append a window to a memory, without gradient (cache_mem of zihangdai/xlnet).

    Args:
        memory: of M tokens.
        inputs_BLTD: every layer's inputs in the window.
        segments_BT: int[B, T], its segments.
        reuse: number of the window's first positions that are appended.

    Returns:
        The newest M tokens.
    """
    hidden = _newest(memory.hidden, inputs_BLTD, reuse)
    return Memory(hidden, _newest_segments(memory, segments_BT, reuse))


def _newest_segments(memory: Memory, segments_BT: jax.Array, reuse: int) -> jax.Array:
    return _newest(memory.segments[..., None], segments_BT[..., None], reuse)[..., 0]


def _newest(memory: jax.Array, inputs: jax.Array, reuse: int) -> jax.Array:
    """[..., M, D], the last of memory[..., M, D] and the first `reuse` positions of inputs[..., T, D]."""
    both = jnp.concatenate([memory, inputs[..., :reuse, :].astype(memory.dtype)], axis=-2)
    return jax.lax.stop_gradient(both[..., both.shape[-2] - memory.shape[-2] :, :])


class TwoStream(nn.Module):
    """Yang et al. 2019, sections 2.3 to 2.6."""

    cfg: ModelConfig
    """The model."""

    def setup(self):
        """Create parameters and submodules."""
        cfg = self.cfg
        self.embedding = token_table(cfg)
        init = logical(nn.initializers.normal(cfg.init.embedding_stddev), ("embed",))
        self.query_embedding = self.param("query_embedding", init, (cfg.width,), jnp.dtype(cfg.param_dtype))
        self.output = Output(cfg)

    @nn.compact
    def __call__(self, batch: Batch, memory: Memory, reuse: int, *, keys: jax.Array | None = None) -> Streams:
        """Run both streams of a window.

        Position j is visible to position i where query_rank_i > rank_j; the content stream also sees its own
        position. All of the memory is visible within a segment.

        Args:
            batch: tokens, segments, rank, query_rank int[B, T]; target_positions int[B, P]; types where the
                model has a segment term; backwards int[B], 1 for rows whose text is in reverse, to which
                distances have the other sign.
            memory: of the windows before.
            reuse: number of the window's first positions that the next window remembers.
            keys: one PRNG key for each row; None: no dropout.

        Returns:
            Both streams and the next memory.
        """
        cfg = self.cfg
        block_cfg = cfg.block("encoder")
        if self.is_initializing() and not cfg.head.absent:
            # Creates the output's parameters, which the streams do not need.
            self.unembedding()
        content_visibility, query_visibility = self._visibility(batch, memory)
        h_BTD = dropout(self.embedding(batch["tokens"]), cfg.dropout, keys, EMBEDDING)
        places_BP = batch["target_positions"]
        # The query stream starts from one vector for all positions: it knows where it is, not what is there.
        g_BPD = jnp.broadcast_to(self.query_embedding.astype(h_BTD.dtype), (*places_BP.shape, cfg.width))
        g_BPD = dropout(g_BPD, cfg.dropout, keys, _QUERY_EMBEDDING)
        block = Block(block_cfg, parent=None)

        def layer(params: Any, streams: tuple[jax.Array, jax.Array], index: jax.Array, memory_BMD: jax.Array):
            content = Stream(streams[0], *content_visibility)
            query = Stream(streams[1], *query_visibility)
            layer_keys = fold(keys, index)
            out = block.apply(
                {"params": params},
                content,
                query,
                memory_BMD,
                places_BP,
                layer_keys,
                batch.get("backwards"),
                method=Block.two_streams,
            )
            # What the next window remembers is the content stream before the layer.
            return out, _newest(memory_BMD, streams[0], reuse)

        def init(key: jax.Array) -> Any:
            segments = batch["segments"]
            return block.init(key, h_BTD, BlockInputs(Mask(segments, segments)))["params"]

        blocks = layer_params(self, init, cfg.num_layers, cfg.share_layers)
        (h_BTD, g_BPD), hidden_LBMD = run_layers(
            [layer] * cfg.num_layers,
            block_cfg,
            blocks,
            (h_BTD, g_BPD),
            jnp.moveaxis(memory.hidden, 1, 0),
            share=cfg.share_layers,
        )
        # Keys of a branch of their own: layers fold in 0, 1, ...
        last_keys = fold(keys, cfg.num_layers)
        return Streams(
            content=dropout(h_BTD, cfg.dropout, last_keys, _CONTENT_FINAL),
            query=dropout(g_BPD, cfg.dropout, last_keys, _QUERY_FINAL),
            memory=Memory(
                jnp.moveaxis(hidden_LBMD, 0, 1), _newest_segments(memory, batch["segments"], reuse)
            ),
        )

    def unembedding(self) -> Unembedding:
        """Return kernel, bias and scale of the output, as Transformer.unembedding does."""
        # A two-stream model has no clusters: its table is one array.
        return self.output(cast(Any, self.embedding.table))

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Compute logits float32[..., V] over the unpadded vocabulary."""
        return embed.logits(hidden, self.unembedding())[..., : self.cfg.vocab_size]

    def _visibility(
        self, batch: Batch, memory: Memory
    ) -> tuple[tuple[Mask, jax.Array | None], tuple[Mask, jax.Array | None]]:
        """(mask, whether types differ) of the content stream, and the same of the query stream."""
        segments = batch["segments"]
        places_BP = batch["target_positions"]
        length = memory.segments.shape[1]
        key_segments = jnp.concatenate([memory.segments, segments], axis=1)
        seen = batch["query_rank"][:, :, None] > batch["rank"][:, None, :]
        # A position of the content stream also sees itself.
        content = seen | jnp.eye(seen.shape[1], dtype=bool)
        # The query stream's rows alone: the predicted positions.
        query = jnp.take_along_axis(seen, places_BP[:, :, None], axis=1)
        with_memory = ((0, 0), (0, 0), (length, 0))
        content_mask = Mask(
            query_segments=segments,
            key_segments=key_segments,
            query_start=length,
            visible=jnp.pad(content, with_memory, constant_values=True),
        )
        query_mask = Mask(
            query_segments=jnp.take_along_axis(segments, places_BP, axis=1),
            key_segments=key_segments,
            query_start=length,
            visible=jnp.pad(query, with_memory, constant_values=True),
        )
        different = _different_types(batch, length)
        if different is None:
            return (content_mask, None), (query_mask, None)
        of_queries = jnp.take_along_axis(different, places_BP[:, :, None], axis=1)
        return (content_mask, different), (query_mask, of_queries)


def _different_types(batch: Batch, memory_length: int) -> jax.Array | None:
    """bool[B, T, M + T]: whether query and key are of different types; the memory counts as type 0."""
    if "types" not in batch:
        return None
    types = batch["types"]
    keys = jnp.pad(types, ((0, 0), (memory_length, 0)))
    return types[:, :, None] != keys[:, None, :]
