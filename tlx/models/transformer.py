"""Encoders, decoders and encoder-decoders: one module, by ModelConfig.kind."""

import dataclasses
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from tlx.base.errors import ConfigError
from tlx.base.term import Term
from tlx.models import parametrization
from tlx.models.config import ModelConfig
from tlx.models.heads import HiddenTransform
from tlx.models.transformer_stack import StackInputs, StackOutputs, TransformerStack
from tlx.nn import cache as caches
from tlx.nn import embed, weight_formats
from tlx.nn.adaptive import AdaptiveOutput, AdaptiveUnembedding, ClusterTables
from tlx.nn.cache import KVCache
from tlx.nn.config import compute_dtype
from tlx.nn.embed import TokenTable, Unembedding
from tlx.nn.evolved import empty_convolution
from tlx.nn.feedforward import balance
from tlx.parallel.sharding import logical

Batch = dict[str, jax.Array]

# Folded into the keys of a decoder that has an encoder, whose layers fold in 0, 1, ...
_DECODER = 2**20
# And into those of a second encoder.
_SOURCE = 2**20 + 1


class Output(nn.Module):
    """The parameters between hidden states and logits: an untied kernel, a bias."""

    cfg: ModelConfig
    """The model."""

    def setup(self):
        """Create parameters and submodules."""
        cfg = self.cfg
        dtype = jnp.dtype(cfg.param_dtype)
        if cfg.head.absent:
            return
        if not cfg.head.tied or cfg.head.half_tied:
            # Of a half-tied kernel only the dims that the narrow table lacks.
            width = cfg.width - (cfg.embedding.width if cfg.head.half_tied else 0)
            init = logical(nn.initializers.normal(parametrization.base_std(cfg)), ("vocab", "embed"), (-1,))
            self.kernel = weight_formats.param(self, "kernel", init, (cfg.padded_vocab, width), dtype)
        if cfg.head.bias:
            zeros = logical(nn.initializers.zeros_init(), ("vocab",))
            self.bias = self.param("bias", zeros, (cfg.padded_vocab,), dtype)

    def __call__(self, table_VE: jax.Array) -> Unembedding:
        """Return the output kernel, which is the token table where tied.

        Raises ConfigError for a model without an output layer, but where parameters are only initialised.
        """
        cfg = self.cfg
        if cfg.head.absent and not self.is_initializing():
            raise ConfigError(
                "model.head.absent = True: the model was imported from a bare checkpoint, which has no output "
                "layer: it embeds texts and can be fine-tuned on tasks with a head of their own, but has no "
                "logits; take a checkpoint of its class for language modelling, or train a new layer with "
                "model.head.absent = False"
            )
        width_ratio = cfg.scales.width
        # muP divides logits by m. T5's own factor is that of the base's width, width ** -0.5.
        scale = 1.0 / width_ratio
        if cfg.head.scale:
            scale = (cfg.width / width_ratio) ** -0.5 / width_ratio
        scale *= cfg.head.multiplier
        return Unembedding(
            kernel=self._kernel(table_VE),
            bias=self.bias if cfg.head.bias and not cfg.head.absent else None,
            scale=scale,
            vocab_size=cfg.vocab_size,
            softcap=cfg.head.softcap,
        )

    def _kernel(self, table_VE: jax.Array) -> jax.Array:
        """The token table, a kernel of its own, or the one beside the other."""
        head = self.cfg.head
        if head.absent:
            return table_VE
        if head.half_tied:
            dtype = compute_dtype(self.cfg.dtype)
            return jnp.concatenate(
                [weight_formats.dequantized(table_VE, dtype), weight_formats.dequantized(self.kernel, dtype)],
                axis=1,
            )
        return table_VE if head.tied else self.kernel


def output(cfg: ModelConfig) -> Output | AdaptiveOutput:
    """Make the module that turns the `table` of `token_table` into an unembedding."""
    part = cfg.embedding
    if not part.cutoffs:
        return Output(cfg)
    return AdaptiveOutput(
        padded_size=cfg.padded_vocab,
        vocab_size=cfg.vocab_size,
        width=cfg.width,
        cutoffs=part.cutoffs,
        divisor=part.divisor,
        tied=cfg.head.tied,
        bias=cfg.head.bias,
        std=cfg.init.stddev,
        dtype=cfg.block("decoder").dtype,
        param_dtype=cfg.param_dtype,
    )


def token_table(cfg: ModelConfig, width: int = 0) -> TokenTable | ClusterTables:
    """Make the module that looks up the vectors of ids, of `width` or, where it is 0, of the config's."""
    part = cfg.embedding
    dtype = cfg.block("encoder").dtype
    if part.cutoffs:
        return ClusterTables(
            padded_size=cfg.padded_vocab,
            width=cfg.width,
            cutoffs=part.cutoffs,
            divisor=part.divisor,
            std=cfg.init.embedding_stddev,
            projection_std=cfg.init.stddev,
            dtype=dtype,
            param_dtype=cfg.param_dtype,
        )
    return TokenTable(
        padded_size=cfg.padded_vocab,
        width=width or part.width or cfg.width,
        std=cfg.init.embedding_stddev,
        dtype=dtype,
        param_dtype=cfg.param_dtype,
        prompt=cfg.adapters.prompt_length,
        quantization=cfg.quantization,
    )


class Transformer(nn.Module):
    """Vaswani et al. 2017 and its descendants, an encoder, a decoder or both, by config.

    A batch is a dict of int arrays [B, T]: tokens, positions, segments, and where the model reads them
    types, langs and prefix (1 where a decoder's input is visible to its whole segment). For an
    encoder-decoder each name has encoder_ or decoder_ in front.
    """

    cfg: ModelConfig
    """The model."""

    def setup(self):
        """Create parameters and submodules."""
        cfg = self.cfg
        self.embedding = token_table(cfg)
        if cfg.embedding.per_layer_dim:
            # One table for all layers: a row is read once, and shared among them.
            self.per_layer_embedding = token_table(cfg, cfg.num_layers * cfg.embedding.per_layer_dim)
        if cfg.embedding.encoder_table:
            self.encoder_embedding = token_table(cfg)
        if cfg.source_encoder_layers:
            block = dataclasses.replace(cfg.block("encoder"), num_layers=cfg.source_encoder_layers)
            self.source_embedding = token_table(cfg)
            self.source_encoder = TransformerStack(block, cfg.embedding, share_layers=False)
        if cfg.kind != "decoder":
            self.encoder = TransformerStack(cfg.block("encoder"), cfg.embedding, cfg.share_layers)
        if cfg.kind != "encoder":
            self.decoder = TransformerStack(cfg.block("decoder"), cfg.embedding, cfg.share_layers)
        self.output = output(cfg)
        if cfg.head.hidden_transform:
            self.hidden_transform = HiddenTransform(cfg)

    def __call__(self, batch: Batch, *, keys: jax.Array | None = None) -> jax.Array:
        """Compute the hidden states of a batch; of its decoder half for an encoder-decoder.

        Args:
            batch: see the class.
            keys: one PRNG key for each row; None: no dropout.

        Returns:
            float[B, T, D].
        """
        if self.is_initializing() and not self.cfg.head.absent:
            # Creates the output's parameters, which the hidden states do not need.
            self.unembedding()
        if self.cfg.kind == "encoder_decoder":
            encoded_BSD = self.encode(batch, keys=keys)
            inputs = _stack_inputs(batch, "decoder_")._replace(
                encoded_BSD=encoded_BSD, encoded_segments_BS=batch["encoder_segments"]
            )
            decoder_keys = _decoder_keys(keys)
            return self.decoder(self.embedding(batch["decoder_tokens"]), inputs, keys_B=decoder_keys).hidden
        return self._transformed(self._run_only_stack(batch, _stack_inputs(batch), keys).hidden)

    def encode(self, batch: Batch, *, keys: jax.Array | None = None) -> jax.Array:
        """Compute the encoder's hidden states [B, S, D] of an encoder-decoder."""
        inputs = _stack_inputs(batch, "encoder_")
        if self.cfg.source_encoder_layers:
            source = self.source_embedding(batch["encoder_tokens"])
            # Keys of its own: both encoders fold in the numbers of their layers.
            x_BTE = self.source_encoder(source, inputs, keys_B=_folded(keys, _SOURCE)).hidden
        else:
            table = self.encoder_embedding if self.cfg.embedding.encoder_table else self.embedding
            x_BTE = table(batch["encoder_tokens"])
        return self.encoder(x_BTE, inputs, keys_B=keys).hidden

    def with_memory(
        self,
        batch: Batch,
        memory_BLMD: jax.Array,
        memory_segments_BM: jax.Array,
        *,
        keys: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """Run a decoder with Transformer-XL's segment recurrence.

        Args:
            batch: see the class.
            memory_BLMD: every layer's inputs in earlier windows.
            memory_segments_BM: int[B, M], their segments.
            keys: one PRNG key for each row; None: no dropout.

        Returns:
            (hidden states [B, T, D], every layer's inputs in this window [B, L, T, D]).
        """
        inputs = _stack_inputs(batch)._replace(memory_BLMD=memory_BLMD, memory_segments_BM=memory_segments_BM)
        out = self.decoder(self.embedding(batch["tokens"]), inputs, keys_B=keys)
        assert out.layer_inputs is not None
        return self._transformed(out.hidden), jnp.moveaxis(out.layer_inputs, 0, 1)

    def with_queries(
        self, batch: Batch, query_BTD: jax.Array, times: int, *, keys: jax.Array | None = None
    ) -> jax.Array:
        """Run an encoder whose last layer runs on queries that attend to its input (DeBERTa's mask decoder).

        Args:
            batch: see the class.
            query_BTD: added to the last layer's input to make the first queries.
            times: how often the last layer runs, each time on what came out before; at least 1.
            keys: one PRNG key for each row; None: no dropout.

        Returns:
            float[B, T, D].
        """
        if self.is_initializing() and not self.cfg.head.absent:
            self.unembedding()
        inputs = _stack_inputs(batch)._replace(query_BTD=query_BTD, query_passes=times)
        return self.encoder(self.embedding(batch["tokens"]), inputs, keys_B=keys).hidden

    def with_layers(
        self, batch: Batch, *, keys: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array | None]:
        """Run an encoder and return what its layers read.

        Args:
            batch: see the class.
            keys: one PRNG key for each row; None: no dropout.

        Returns:
            (hidden states [B, T, D], every layer's inputs [L, B, T, D]; None where the first layer is
            unlike the others).
        """
        x_BTE = self.embedding(batch["tokens"])
        out = self.encoder(x_BTE, _stack_inputs(batch), keys_B=keys, return_layer_inputs=True)
        return out.hidden, out.layer_inputs

    def content_logits(
        self, batch: Batch, inputs_LBTD: jax.Array, layers: tuple[int, ...]
    ) -> list[jax.Array]:
        """Compute an encoder's attention logits, without mask and relative terms.

        Args:
            batch: see the class.
            inputs_LBTD: every layer's inputs.
            layers: indices of the layers that are asked for.

        Returns:
            float32[B, N, T, T] for each of `layers`.
        """
        return self.encoder.content_logits(inputs_LBTD, layers, batch["positions"])

    def with_balance(self, batch: Batch, *, keys: jax.Array | None = None) -> tuple[jax.Array, Term]:
        """Run an encoder or decoder with experts.

        Args:
            batch: see the class.
            keys: one PRNG key for each row; None: no dropout.

        Returns:
            (hidden states [B, T, D], the load-balancing term). The term is that of the batch it is given:
            with microbatches, of each by itself.
        """
        out = self._run_only_stack(batch, _stack_inputs(batch), keys)
        assert out.expert_loads is not None
        num_tokens = jnp.sum(batch["segments"] > 0).astype(jnp.float32)
        # The mean over layers: one term for the whole stack.
        chosen_X, probs_X = out.expert_loads.mean(axis=0) / jnp.maximum(num_tokens, 1)
        loss_weight = self.cfg.feedforward.router_aux_weight
        term = Term(balance(chosen_X, probs_X) * num_tokens, num_tokens, loss_weight)
        return self._transformed(out.hidden), term

    def unembedding(self) -> Unembedding | AdaptiveUnembedding:
        """Return kernel, bias and scale of the output, for a loss that never builds all logits."""
        # Table and output are both plain or both in clusters, as the config says.
        return self.output(cast(Any, self.embedding.table))

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Compute logits float32[..., V] over the unpadded vocabulary."""
        # Padding ids are cut off, so that callers see the tokenizer's size.
        return embed.logits(hidden, self.unembedding())[..., : self.cfg.vocab_size]

    def init_cache(
        self,
        batch_size: int,
        length: int,
        encoded_BSD: jax.Array | None = None,
        encoded_segments_BS: jax.Array | None = None,
    ) -> KVCache:
        """Create an empty cache.

        Args:
            batch_size: rows B.
            length: capacity in tokens.
            encoded_BSD: an encoder's output, of which keys and values are stored; None: a decoder alone.
            encoded_segments_BS: int[B, S], its segments.

        Returns:
            The cache.
        """
        block = self.cfg.block("decoder")
        layout = caches.layout(block)
        cache = caches.empty(
            layout.num_entries,
            batch_size,
            length,
            layout.kv_heads,
            layout.head_dim,
            jnp.dtype(block.dtype),
        )
        if block.block_layout == "evolved":
            cache = cache._replace(states=empty_convolution(block, batch_size))
        if "state_space" in block.mixers:
            num_recurrent = len(block.layers_with("state_space"))
            cache = cache._replace(states=caches.empty_states(block, num_recurrent, batch_size))
        if encoded_BSD is None:
            return cache
        # Once for a whole generation: each step reads them from the cache.
        key, value = self.decoder.encoded_keys_values(encoded_BSD)
        return cache._replace(cross_key=key, cross_value=value, cross_segments=encoded_segments_BS)

    def decode(
        self, tokens_BT: jax.Array, positions_BT: jax.Array, segments_BT: jax.Array, cache: KVCache
    ) -> tuple[jax.Array, KVCache]:
        """Run the decoder on the next T tokens of each row.

        Args:
            tokens_BT: their ids.
            positions_BT: int[B, T], their positions inside the documents.
            segments_BT: int[B, T], their segments; 0 is padding.
            cache: keys and values of the tokens before.

        Returns:
            (hidden states [B, T, D], the cache with these tokens).
        """
        hidden_BTD, cache = self.decoder.step(
            self.embedding(tokens_BT), positions_BT, segments_BT, cache, self._token_rows(tokens_BT)
        )
        return self._transformed(hidden_BTD), cache

    def _token_rows(self, tokens_BT: jax.Array) -> jax.Array | None:
        """Rows of the table that each layer reads a part of; None: there is none."""
        return self.per_layer_embedding(tokens_BT) if self.cfg.embedding.per_layer_dim else None

    def _transformed(self, hidden: jax.Array) -> jax.Array:
        """Hidden states as the output kernel reads them."""
        return self.hidden_transform(hidden) if self.cfg.head.hidden_transform else hidden

    def _run_only_stack(self, batch: Batch, inputs: StackInputs, keys: jax.Array | None) -> StackOutputs:
        """Run the one stack of an encoder or a decoder."""
        stack = self.encoder if self.cfg.kind == "encoder" else self.decoder
        inputs = inputs._replace(token_rows_BTE=self._token_rows(batch["tokens"]))
        return stack(self.embedding(batch["tokens"]), inputs, keys_B=keys)


def _stack_inputs(batch: Batch, prefix: str = "") -> StackInputs:
    """The arrays of a batch that a stack reads; `prefix` is "encoder_", "decoder_" or ""."""
    return StackInputs(
        positions_BT=batch[prefix + "positions"],
        segments_BT=batch[prefix + "segments"],
        types_BT=batch.get(prefix + "types"),
        languages_BT=batch.get(prefix + "langs"),
        prefix_BT=batch.get(prefix + "prefix"),
    )


def _decoder_keys(keys: jax.Array | None) -> jax.Array | None:
    """The keys of an encoder-decoder's decoder, unlike the encoder's."""
    return _folded(keys, _DECODER)


def _folded(keys: jax.Array | None, number: int) -> jax.Array | None:
    return None if keys is None else jax.vmap(jax.random.fold_in, (0, None))(keys, number)
