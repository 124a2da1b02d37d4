"""A stack with what goes before and after it: embeddings in, normalised hidden states out."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from tlx.nn.block import Block
from tlx.nn.cache import KVCache, LayerCache
from tlx.nn.config import BlockConfig
from tlx.nn.convolution import Convolution
from tlx.nn.disentangled import DistanceTable
from tlx.nn.dropout import dropout, fold
from tlx.nn.embed import FINAL, EmbeddingConfig, InputEmbedding
from tlx.nn.feedforward import Routing
from tlx.nn.fusion import fusion_barrier
from tlx.nn.kernels.choice import kernel_name
from tlx.nn.mask import Mask
from tlx.nn.norm import Norm
from tlx.nn.position import BucketedBias, per_device_bias
from tlx.nn.stack import layer_params, run_layers


class TransformerStack(nn.Module):
    """The encoder or the decoder of a Transformer, [B, T, E] token vectors to [B, T, D]."""

    cfg: BlockConfig
    embedding: EmbeddingConfig
    share_layers: bool

    def setup(self):
        cfg = self.cfg
        self.front = InputEmbedding(cfg, self.embedding)
        if self._shared_bias:
            self.position_bias = BucketedBias(cfg)
        if cfg.position.kind == "disentangled":
            self.distances = DistanceTable(cfg)
        if self.embedding.conv_kernel_size:
            self.convolution = Convolution(cfg, self.embedding.conv_kernel_size)
        if cfg.block_layout != "post":
            self.final_norm = Norm(cfg.norm, cfg.width, cfg.param_dtype)

    @nn.compact
    def __call__(
        self,
        x_BTE: jax.Array,
        positions_BT: jax.Array,
        segments_BT: jax.Array,
        *,
        types_BT: jax.Array | None = None,
        languages_BT: jax.Array | None = None,
        encoded_BSD: jax.Array | None = None,
        encoded_segments_BS: jax.Array | None = None,
        memory_BLMD: jax.Array | None = None,
        memory_segments_BM: jax.Array | None = None,
        prefix_BT: jax.Array | None = None,
        query: tuple[jax.Array, int] | None = None,
        keys_B: jax.Array | None = None,
        inputs_too: bool = False,
    ) -> tuple[jax.Array, jax.Array | None, jax.Array | None]:
        """(hidden states [B, T, D], each layer's input [L, B, T, D], loads of experts [L, 2, E]).

        query = (vectors [B, T, D], times): the last layer runs so often, first on its input plus these, then
        on what came out, and attends to its input each time (DeBERTa's enhanced mask decoder).
        """
        cfg = self.cfg
        memory = 0 if memory_BLMD is None else memory_BLMD.shape[2]
        key_segments = jnp.concatenate([memory_segments_BM, segments_BT], 1) if memory else segments_BT
        mask = Mask(segments_BT, key_segments, memory, cfg.causal, prefix=prefix_BT)
        cross = None if encoded_BSD is None else Mask(segments_BT, encoded_segments_BS)
        x_BTD = self.front(x_BTE, positions_BT, types_BT, keys_B, languages_BT)
        bias = self._bias(x_BTD.shape, memory, prefix_BT is not None) if self._shared_bias else None
        distances = self.distances() if cfg.position.kind == "disentangled" else None

        def apply(block, params, x, index, memory_BMD, source_BTD=None):
            y, _, routing = block.apply(
                {"params": params},
                x,
                mask._replace(window=block.cfg.attention.window),
                bias=bias,
                positions_BT=positions_BT,
                keys_B=fold(keys_B, index),
                memory_BMD=memory_BMD,
                encoded_BSD=encoded_BSD,
                cross_mask=cross,
                distances_RD=distances,
                source_BTD=source_BTD,
            )
            return y, (x if memory or inputs_too else None, _loads(routing, segments_BT))

        def init(key):
            rest = {"positions_BT": positions_BT, "encoded_BSD": encoded_BSD, "cross_mask": cross}
            rest |= {"distances_RD": distances}
            return Block(cfg, parent=None).init(key, x_BTD, Mask(segments_BT, segments_BT), **rest)["params"]

        blocks = layer_params(self, init, cfg.num_layers, self.share_layers, self._absent)
        inputs = jnp.moveaxis(memory_BLMD, 1, 0) if memory else None
        layers, run = self._period(apply), self._runner(apply)
        if query is not None:
            run = functools.partial(self._queried, run, query)
        y_BTD, rest = run(layers, blocks, cfg.num_layers, x_BTD, inputs, segments_BT, keys_B)
        return self._finish(y_BTD, keys_B), *rest

    def _bias(self, shape: tuple[int, ...], memory: int, prefix: bool) -> jax.Array:
        """The bias of all layers; where the kernel takes that, once for each device."""
        batch, length, _ = shape
        bias = self.position_bias(length, length + memory, memory)
        fused = kernel_name(self.cfg, length, prefix, length + memory) in ("fused", "cudnn")
        return per_device_bias(bias, batch) if fused and not self.cfg.adapters.prefix_length else bias

    def _runner(self, apply):
        """What runs the layers: all of them alike, or the first apart."""
        if not (self.embedding.conv_kernel_size or self._absent):
            return self._plain
        first = Block(self.cfg.layer(0), self.cfg.norm.before_first_layer, parent=None)
        return functools.partial(self._first_apart, functools.partial(apply, first))

    def _queried(self, run, query, layers, blocks, count, x_BTD, *rest):
        """The first layers as `run` runs them, then the last one on its queries."""
        y_BTD, _ = run(layers, blocks, count - 1, x_BTD, *rest)
        params = blocks if self.share_layers else jax.tree.map(lambda x: x[-1], blocks)
        z_BTD = y_BTD + query[0]
        for i in range(query[1]):
            last = layers[(count - 1) % self.cfg.period]
            z_BTD, _ = last(params, z_BTD, count - 1 + i, None, y_BTD)
        return z_BTD, (None, None)

    def _plain(self, layers, blocks, count, x_BTD, inputs, segments_BT, keys_B):
        """(hidden states after the first `count` layers, (layer inputs, loads))."""
        if count < self.cfg.num_layers and not self.share_layers:
            blocks = jax.tree.map(lambda x: x[:count], blocks)
        return run_layers(layers, self.cfg, blocks, x_BTD, inputs, num_layers=count, share=self.share_layers)

    def _first_apart(self, first, layers, blocks, count, x_BTD, inputs, segments_BT, keys_B):
        """The same where the first layer is unlike the rest: `first`, and the convolution that joins it."""
        kept = {name: part for name, part in blocks.items() if name not in self._absent}
        one, rest = (jax.tree.map(lambda x, part=part: x[part], kept) for part in (slice(1), slice(1, count)))
        rest |= {name: jax.tree.map(lambda x: x[: count - 1], blocks[name]) for name in self._absent}
        y_BTD, _ = run_layers((first,), self.cfg, one, x_BTD, num_layers=1, share=False)
        if self.embedding.conv_kernel_size:
            y_BTD = self.convolution(x_BTD, y_BTD, segments_BT, keys_B)
        if count > 1:
            turned = [*layers[1:], layers[0]]  # the second of the pattern is the first of these
            y_BTD, _ = run_layers(turned, self.cfg, rest, y_BTD, num_layers=count - 1, share=False, first=1)
        return y_BTD, (None, None)

    def content_logits(
        self, inputs_LBTD: jax.Array, layers: tuple[int, ...], positions_BT: jax.Array
    ) -> list[jax.Array]:
        """The attention logits of these layers, float32[B, N, T, T] each, from every layer's input."""
        blocks, found = self._blocks(), []
        for layer in layers:
            params = blocks if self.share_layers else jax.tree.map(lambda x, i=layer: x[i], blocks)
            block = Block(self.cfg.layer(layer % self.cfg.period), parent=None)
            call = {"method": Block.content_logits}
            found.append(block.apply({"params": params}, inputs_LBTD[layer], positions_BT, **call))
        return found

    def encoded_keys_values(self, encoded_BSD: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Cross-attention's keys and values of every layer, [L, B, S, G, H] each."""
        cfg, block = self.cfg, Block(self.cfg, parent=None)

        def apply(params, carry, index, _):
            return carry, block.apply({"params": params}, encoded_BSD, method=Block.encoded_keys_values)

        _, pair = run_layers(
            (apply,), cfg, self._blocks(), (), num_layers=cfg.num_layers, share=self.share_layers
        )
        return pair

    def step(
        self, x_BTE: jax.Array, positions_BT: jax.Array, segments_BT: jax.Array, cache: KVCache
    ) -> tuple[jax.Array, KVCache]:
        """The next T places of a row: hidden states [B, T, D] and the cache with them."""
        cfg, start = self.cfg, cache.num_filled
        length, room = x_BTE.shape[1], cache.segments.shape[1]
        segments = jax.lax.dynamic_update_slice(cache.segments, segments_BT, (0, start))
        mask = Mask(segments_BT, segments, start, cfg.causal)
        cross = None if cache.cross_segments is None else Mask(segments_BT, cache.cross_segments)
        bias = self.position_bias(length, room, start) if self._shared_bias else None
        x_BTD = self.front(x_BTE, positions_BT, None, None)

        def apply(block, params, carry, index, encoded):
            x, key, value = carry
            x, slot, _ = block.apply(
                {"params": params},
                x,
                mask._replace(window=block.cfg.attention.window),
                bias=bias,
                positions_BT=positions_BT,
                slot=LayerCache(key, value, index, start),
                encoded_keys_values=encoded,
                cross_mask=cross,
            )
            return (x, slot.key, slot.value), None

        encoded = None if cross is None else (cache.cross_key, cache.cross_value)
        carry = (x_BTD, cache.key, cache.value)
        (y_BTD, key, value), _ = run_layers(
            self._period(apply),
            cfg,
            self._blocks(),
            carry,
            encoded,
            num_layers=cfg.num_layers,
            share=self.share_layers,
        )
        cache = cache._replace(key=key, value=value, segments=segments, num_filled=start + length)
        return self._finish(y_BTD, None), cache

    def _period(self, apply):
        """apply(block, ...) for the block of each layer of a period."""
        blocks = [Block(self.cfg.layer(place), parent=None) for place in range(self.cfg.period)]
        return [functools.partial(apply, block) for block in blocks]

    @property
    def _absent(self) -> tuple[str, ...]:
        """Parts that the first layer does not have."""
        return () if self.cfg.norm.before_first_layer else ("attention_norm",)

    @property
    def _shared_bias(self) -> bool:
        return self.cfg.position.kind == "relative_bias" and not self.cfg.position.per_layer

    def _blocks(self):
        return layer_params(self, None, self.cfg.num_layers, self.share_layers)

    def _finish(self, y_BTD: jax.Array, keys_B: jax.Array | None) -> jax.Array:
        if self.cfg.block_layout != "post":
            y_BTD = fusion_barrier(self.final_norm(y_BTD))
        # Its own branch of the keys: layers fold in 0, 1, ...
        return dropout(y_BTD, self._final_dropout, fold(keys_B, self.cfg.num_layers), FINAL)

    @property
    def _final_dropout(self) -> float:
        """T5 and Transformer-XL drop what they hand to the output."""
        return self.cfg.dropout if self.cfg.position.kind in ("relative_bias", "relative_sinusoidal") else 0.0


def _loads(routing: Routing | None, segments_BT: jax.Array) -> jax.Array | None:
    """[2, E]: the number of tokens that chose each expert, and the sum of its probabilities; no padding."""
    if routing is None:
        return None
    real_BT = (segments_BT > 0).astype(jnp.float32)
    return jnp.stack([jnp.einsum("bt,bte->e", real_BT, x) for x in (routing.chosen_BTE, routing.probs_BTE)])
