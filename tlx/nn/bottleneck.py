"""A layer between two bottlenecks, with several feed-forward networks (MobileBERT).

Sun et al. 2020, MobileBERT: a Compact Task-Agnostic BERT for Resource-Limited Devices, 3.1 to 3.3.
"""

import flax.linen as nn
import jax

from tlx.nn.attention import Attention
from tlx.nn.block import RESIDUAL_DIMS, BlockInputs, BlockOutputs
from tlx.nn.config import BlockConfig
from tlx.nn.dropout import ATTENTION_PROBABILITIES, FEEDFORWARD_HIDDEN, FEEDFORWARD_OUTPUT, dropout, fold
from tlx.nn.feedforward import FeedForward
from tlx.nn.linear import Linear
from tlx.nn.norm import Norm
from tlx.parallel.sharding import constrain

# Folded into the keys of the second and later networks of a layer, so that each draws bits of its own.
_NETWORKS = 2**19


class BottleneckBlock(nn.Module):
    """A layer of inner width d in a stream x[B, T, D], post-norm.

    h = N(x W_in); h = N(attention + h); h = N(feedforward_i(h) + h) for each network i; out N(h W_out + x).
    Queries and keys are made of N(x W_qk) and values of x, or all three of the first h, or of x.
    """

    cfg: BlockConfig
    """The layer."""

    def setup(self):
        """Create parameters and submodules."""
        cfg = self.cfg
        inner = cfg.inner()
        part = cfg.bottleneck
        self.input = self._linear(cfg.width, inner.width, ("embed", None))
        self.input_norm = self._norm(inner.width)
        if part.attention_input == "projection":
            self.query_key = self._linear(cfg.width, inner.width, ("embed", None))
            self.query_key_norm = self._norm(inner.width)
        self.attention = Attention(
            inner,
            query_key_width=cfg.width if part.attention_input == "stream" else 0,
            value_width=0 if part.attention_input == "narrow" else cfg.width,
        )
        self.attention_norm = self._norm(inner.width)
        self.feedforwards = [FeedForward(inner) for _ in range(part.num_feedforwards)]
        self.feedforward_norms = [self._norm(inner.width) for _ in range(part.num_feedforwards)]
        self.output = self._linear(inner.width, cfg.width, (None, "embed"))
        self.output_norm = self._norm(cfg.width)

    def __call__(self, x_BTD: jax.Array, inputs: BlockInputs) -> BlockOutputs:
        """Run the layer on the residual stream."""
        cfg = self.cfg
        keys_B = inputs.keys_B
        h = self.input_norm(self.input(x_BTD))
        # Constrained after each sum, where a sharded product has been added up.
        h = constrain(self.attention_norm(self._attend(x_BTD, h, inputs) + h), RESIDUAL_DIMS)
        for i, (network, norm) in enumerate(zip(self.feedforwards, self.feedforward_norms, strict=True)):
            network_keys = keys_B if i == 0 else fold(keys_B, _NETWORKS + i)
            h = constrain(norm(network(h, network_keys, FEEDFORWARD_HIDDEN) + h), RESIDUAL_DIMS)
        y_BTD = dropout(self.output(h), cfg.dropout, keys_B, FEEDFORWARD_OUTPUT)
        return BlockOutputs(constrain(self.output_norm(y_BTD + x_BTD), RESIDUAL_DIMS), None, None)

    def content_logits(self, x_BTD: jax.Array, positions_BT: jax.Array) -> jax.Array:
        """Compute the attention logits of the layer whose input is x, float32[B, N, T, T]; see Attention."""
        h = self.input_norm(self.input(x_BTD))
        return self.attention.content_logits(self._query_key_input(x_BTD, h), positions_BT)

    def _attend(self, x_BTD: jax.Array, h_BTd: jax.Array, inputs: BlockInputs) -> jax.Array:
        """Self-attention of the stream, or attention of x to what stands in its place; [B, T, d]."""
        source_BTD = x_BTD
        query_input = key_input = self._query_key_input(x_BTD, h_BTd)
        if inputs.source_BTD is not None:
            source_BTD = inputs.source_BTD
            key_input = self._query_key_input(source_BTD, self.input_norm(self.input(source_BTD)))
        is_narrow = self.cfg.bottleneck.attention_input == "narrow"
        attention = self.attention
        keys_B = inputs.keys_B
        query = attention.queries(query_input, inputs.positions_BT, keys_B)
        value_source = key_input if is_narrow else source_BTD
        key, value = attention.keys_values(key_input, inputs.positions_BT, keys_B, value_source)
        return attention.attend(query, key, value, inputs.mask, inputs.bias, keys_B, ATTENTION_PROBABILITIES)

    def _query_key_input(self, x_BTD: jax.Array, h_BTd: jax.Array) -> jax.Array:
        """The input of queries and keys, given the stream and the layer's narrow input."""
        kind = self.cfg.bottleneck.attention_input
        if kind == "projection":
            return self.query_key_norm(self.query_key(x_BTD))
        return h_BTd if kind == "narrow" else x_BTD

    def _linear(self, inputs: int, outputs: int, names: tuple[str | None, str | None]) -> Linear:
        """A projection to or from the inner width."""
        cfg = self.cfg
        return Linear(
            inputs=(inputs,),
            outputs=(outputs,),
            names=names,
            std=cfg.std(inputs),
            bias=True,
            dtype=cfg.dtype,
            param_dtype=cfg.param_dtype,
            quantization=cfg.quantization,
        )

    def _norm(self, width: int) -> Norm:
        return Norm(self.cfg.norm, width, self.cfg.param_dtype)
