"""Encoders, decoders and encoder-decoders: one module, by ModelConfig.kind."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from tlx.base.term import Term
from tlx.models import parametrization
from tlx.models.config import ModelConfig
from tlx.models.tower import TransformerStack
from tlx.nn import cache as caches
from tlx.nn import embed
from tlx.nn.adaptive import AdaptiveOutput, AdaptiveUnembedding, ClusterTables
from tlx.nn.cache import KVCache
from tlx.nn.embed import TokenTable, Unembedding
from tlx.nn.feedforward import balance
from tlx.parallel.sharding import logical

Batch = dict[str, jax.Array]


class Output(nn.Module):
    """The parameters between hidden states and logits: an untied kernel, a bias."""

    cfg: ModelConfig

    def setup(self):
        cfg = self.cfg
        dtype, shape = jnp.dtype(cfg.param_dtype), (cfg.padded_vocab, cfg.width)
        if not cfg.head.tied:
            init = logical(nn.initializers.normal(parametrization.base_std(cfg)), ("vocab", "embed"))
            self.kernel = self.param("kernel", init, shape, dtype)
        if cfg.head.bias:
            zeros = logical(nn.initializers.zeros_init(), ("vocab",))
            self.bias = self.param("bias", zeros, shape[:1], dtype)

    def __call__(self, table_VE: jax.Array) -> Unembedding:
        """The output kernel, which is `table_VE` where tied."""
        cfg = self.cfg
        kernel = table_VE if cfg.head.tied else self.kernel
        width = parametrization.scales(cfg).width
        # T5's own factor is the square root of muP's.
        scale = (cfg.width / width) ** -0.5 / width if cfg.head.scale else 1.0 / width
        bias = self.bias if cfg.head.bias else None
        return Unembedding(kernel, bias, scale, cfg.vocab_size, cfg.head.softcap)


def output(cfg: ModelConfig) -> Output | AdaptiveOutput:
    """What makes an unembedding of the `table` of `token_table`."""
    part, head = cfg.embedding, cfg.head
    if not part.cutoffs:
        return Output(cfg)
    sizes = cfg.padded_vocab, cfg.vocab_size, cfg.width, part.cutoffs, part.divisor
    dtype = cfg.block("decoder").dtype
    return AdaptiveOutput(*sizes, head.tied, head.bias, cfg.init.stddev, dtype, cfg.param_dtype)


def token_table(cfg: ModelConfig) -> TokenTable | ClusterTables:
    """The table of ids that every model starts from."""
    dtype, part = cfg.block("encoder").dtype, cfg.embedding
    if part.cutoffs:
        sizes, stds = (cfg.padded_vocab, cfg.width), (cfg.init.embedding_stddev, cfg.init.stddev)
        return ClusterTables(*sizes, part.cutoffs, part.divisor, *stds, dtype, cfg.param_dtype)
    width = cfg.embedding.width or cfg.width
    rest = (cfg.init.embedding_stddev, dtype, cfg.param_dtype, cfg.adapters.prompt_length)
    return TokenTable(cfg.padded_vocab, width, *rest)


class Transformer(nn.Module):
    """Vaswani et al. 2017 and what became of it; parts by config."""

    cfg: ModelConfig

    def setup(self):
        cfg = self.cfg
        self.embedding = token_table(cfg)
        if cfg.kind != "decoder":
            self.encoder = TransformerStack(cfg.block("encoder"), cfg.embedding, cfg.share_layers)
        if cfg.kind != "encoder":
            self.decoder = TransformerStack(cfg.block("decoder"), cfg.embedding, cfg.share_layers)
        self.output = output(cfg)

    def __call__(self, batch: Batch, *, keys: jax.Array | None = None) -> jax.Array:
        """Hidden states [B, T, D] of a batch; of its decoder half for an encoder-decoder.

        batch: tokens, positions, segments (types, langs), int[B, T]; with encoder_ and decoder_ in front for
        an encoder-decoder; prefix [B, T] is 1 where a decoder's input is seen by its whole segment.
        keys: a PRNG key for each row, or None for no dropout.
        """
        if self.is_initializing():
            self.unembedding()
        if self.cfg.kind == "encoder_decoder":
            encoded = self.encode(batch, keys=keys)
            return self._run(
                self.decoder,
                batch,
                "decoder_",
                _offset(keys),
                encoded_BSD=encoded,
                encoded_segments_BS=batch["encoder_segments"],
            )[0]
        tower = self.encoder if self.cfg.kind == "encoder" else self.decoder
        return self._run(tower, batch, "", keys)[0]

    def encode(self, batch: Batch, *, keys: jax.Array | None = None) -> jax.Array:
        """The encoder's hidden states [B, S, D] of an encoder-decoder."""
        return self._run(self.encoder, batch, "encoder_", keys)[0]

    def with_memory(
        self,
        batch: Batch,
        memory_BLMD: jax.Array,
        memory_segments_BM: jax.Array,
        *,
        keys: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """A decoder with Transformer-XL's segment recurrence: ([B, T, D], layer inputs [B, L, T, D])."""
        hidden, inputs, _ = self._run(
            self.decoder, batch, "", keys, memory_BLMD=memory_BLMD, memory_segments_BM=memory_segments_BM
        )
        return hidden, jnp.moveaxis(inputs, 0, 1)

    def with_queries(
        self, batch: Batch, query_BTD: jax.Array, times: int, *, keys: jax.Array | None = None
    ) -> jax.Array:
        """[B, T, D] of an encoder whose last layer runs `times` times on its input plus `query`, and each
        time attends to its input alone."""
        if self.is_initializing():
            self.unembedding()
        return self._run(self.encoder, batch, "", keys, query=(query_BTD, times))[0]

    def with_layers(
        self, batch: Batch, *, keys: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array | None]:
        """An encoder's hidden states [B, T, D] and the inputs of its layers [L, B, T, D]: None where the
        first layer is unlike the others."""
        return self._run(self.encoder, batch, "", keys, inputs_too=True)[:2]

    def content_logits(
        self, batch: Batch, inputs_LBTD: jax.Array, layers: tuple[int, ...]
    ) -> list[jax.Array]:
        """An encoder's attention logits float32[B, N, T, T] in these layers, given the inputs of all."""
        return self.encoder.content_logits(inputs_LBTD, layers, batch["positions"])

    def with_balance(self, batch: Batch, *, keys: jax.Array | None = None) -> tuple[jax.Array, Term]:
        """(hidden states of an encoder or decoder with experts, the term that keeps their loads even).

        The term is of the batch it is given: with microbatches, of each by itself.
        """
        tower = self.encoder if self.cfg.kind == "encoder" else self.decoder
        hidden, _, loads = self._run(tower, batch, "", keys)
        tokens = jnp.sum(batch["segments"] > 0).astype(jnp.float32)
        chosen_E, probs_E = loads.mean(axis=0) / jnp.maximum(tokens, 1)
        part = self.cfg.feedforward
        return hidden, Term(balance(chosen_E, probs_E) * tokens, tokens, part.router_aux_weight)

    def unembedding(self) -> Unembedding | AdaptiveUnembedding:
        """Kernel, bias and scale of the output, for a loss that never builds all logits."""
        return self.output(self.embedding.table)

    def logits(self, hidden: jax.Array) -> jax.Array:
        """float32[..., V], V the unpadded vocabulary."""
        return embed.logits(hidden, self.unembedding())[..., : self.cfg.vocab_size]

    def init_cache(
        self,
        batch_size: int,
        length: int,
        encoded_BSD: jax.Array | None = None,
        encoded_segments_BS: jax.Array | None = None,
    ) -> KVCache:
        """An empty cache for `length` places; with the encoder's keys and values for an encoder-decoder."""
        block = self.cfg.block("decoder")
        cache = caches.empty(
            block.num_layers, batch_size, length, block.num_kv_heads, block.head_dim, jnp.dtype(block.dtype)
        )
        if encoded_BSD is None:
            return cache
        key, value = self.decoder.encoded_keys_values(encoded_BSD)
        return cache._replace(cross_key=key, cross_value=value, cross_segments=encoded_segments_BS)

    def decode(
        self, tokens_BT: jax.Array, positions_BT: jax.Array, segments_BT: jax.Array, cache: KVCache
    ) -> tuple[jax.Array, KVCache]:
        """Hidden states of the next T tokens of each row (segment 0: padding) and the cache with them."""
        return self.decoder.step(self.embedding(tokens_BT), positions_BT, segments_BT, cache)

    def _run(self, tower: TransformerStack, batch: Batch, prefix: str, keys: jax.Array | None, **rest):
        return tower(
            self.embedding(batch[prefix + "tokens"]),
            batch[prefix + "positions"],
            batch[prefix + "segments"],
            types_BT=batch.get(prefix + "types"),
            languages_BT=batch.get(prefix + "langs"),
            prefix_BT=batch.get(prefix + "prefix"),
            keys_B=keys,
            **rest,
        )


def _offset(keys: jax.Array | None) -> jax.Array | None:
    """The decoder's keys, unlike the encoder's (whose layers fold in 0, 1, ...)."""
    return None if keys is None else jax.vmap(jax.random.fold_in, (0, None))(keys, 2**20)
