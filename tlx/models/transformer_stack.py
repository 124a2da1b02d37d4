"""A stack of layers with what goes before and after it: embeddings in, normalised hidden states out.

Shapes: U size of the per-layer inputs.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tlx.base.errors import ConfigError
from tlx.models.layer_specs import LayerGroup, LayerSpec, group_layers, layer_specs
from tlx.nn import cache as caches
from tlx.nn.adapter_modules import PrefixNetwork
from tlx.nn.attention import KeysValues
from tlx.nn.block import Block, BlockInputs, BlockOutputs, StoredKeys
from tlx.nn.bottleneck import BottleneckBlock
from tlx.nn.cache import KVCache, LayerCache
from tlx.nn.config import BlockConfig
from tlx.nn.convolution import Convolution
from tlx.nn.disentangled import DistanceTable
from tlx.nn.dropout import FINAL, dropout, fold
from tlx.nn.embed import EmbeddingConfig, InputEmbedding
from tlx.nn.evolved import EvolvedDecoderBlock, EvolvedEncoderBlock
from tlx.nn.feedforward import Routing
from tlx.nn.fusion import fusion_barrier
from tlx.nn.kernels.choice import kernel_name
from tlx.nn.mask import Mask
from tlx.nn.norm import Norm
from tlx.nn.per_layer import PerLayerInputs
from tlx.nn.position import BucketedBias, alibi, per_device_bias
from tlx.nn.stack import Layer, Pattern, layer_params, run_layers


class StackInputs(NamedTuple):
    """Inputs of a stack besides token vectors."""

    positions_BT: jax.Array
    """int[B, T], positions inside the documents."""

    segments_BT: jax.Array
    """int[B, T]: attention stays within a segment; 0 is padding."""

    types_BT: jax.Array | None = None
    """int[B, T], segment types (BERT's A and B); None: 0 everywhere."""

    languages_BT: jax.Array | None = None
    """int[B, T], languages (XLM); None: no language vector."""

    prefix_BT: jax.Array | None = None
    """int[B, T]: tokens where it is not 0 are visible to their whole segment (prefix LM); None: causal."""

    encoded_BSD: jax.Array | None = None
    """The encoder's output, for cross-attention."""

    encoded_segments_BS: jax.Array | None = None
    """int[B, S], segments of the encoder's tokens."""

    memory_BLMD: jax.Array | None = None
    """Every layer's inputs in earlier windows (Transformer-XL); None: no memory."""

    memory_segments_BM: jax.Array | None = None
    """int[B, M], segments of the memory; 0 is visible to no token."""

    query_BTD: jax.Array | None = None
    """Added to the last layer's input to make the queries that attend to it (DeBERTa's mask decoder)."""

    query_passes: int = 0
    """Number of times that the last layer runs on these queries, each time on its previous output; 0: no queries."""

    token_rows_BTE: jax.Array | None = None
    """float[B, T, L U]: the tokens' rows of the table that each layer reads a part of; None: there is none."""


class StackOutputs(NamedTuple):
    """Outputs of a stack."""

    hidden: jax.Array
    """float[B, T, D]."""

    layer_inputs: jax.Array | None
    """[L, B, T, D], every layer's input, with a memory or where asked for; None where layers are in
    groups."""

    expert_loads: jax.Array | None
    """float32[L, 2, X]: tokens that chose each expert, and the sum of its probabilities; None without
    experts."""


def make_block(
    cfg: BlockConfig, has_attention_norm: bool = True
) -> Block | BottleneckBlock | EvolvedEncoderBlock | EvolvedDecoderBlock:
    """Make the module of a layer, which is applied to parameters of its own."""
    if cfg.block_layout == "evolved":
        return EvolvedDecoderBlock(cfg, parent=None) if cfg.cross else EvolvedEncoderBlock(cfg, parent=None)
    if cfg.bottleneck.width:
        return BottleneckBlock(cfg, parent=None)
    return Block(cfg, has_attention_norm, parent=None)


class TransformerStack(nn.Module):
    """The encoder or the decoder of a Transformer: token vectors [B, T, E] to hidden states [B, T, D]."""

    cfg: BlockConfig
    """Config that all layers share, with the pattern that they repeat."""

    embedding: EmbeddingConfig
    """Embeddings that are added to token vectors."""

    share_layers: bool
    """Whether all layers have one layer's parameters (ALBERT)."""

    def setup(self):
        """Create parameters and submodules."""
        cfg = self.cfg
        self.front = InputEmbedding(cfg, self.embedding)
        if self._has_shared_bias:
            self.position_bias = BucketedBias(cfg)
        if cfg.position.kind == "disentangled":
            self.distances = DistanceTable(cfg)
        if self.embedding.conv_kernel_size:
            self.convolution = Convolution(
                cfg, self.embedding.conv_kernel_size, self.embedding.conv_activation
            )
        if cfg.adapters.prefix_hidden:
            self.prefix_network = PrefixNetwork(cfg)
        if cfg.per_layer_dim:
            self.per_layer_inputs = PerLayerInputs(cfg)
        if cfg.block_layout != "post":
            self.final_norm = Norm(cfg.norm, cfg.width, cfg.param_dtype)

    @nn.compact
    def __call__(
        self,
        x_BTE: jax.Array,
        inputs: StackInputs,
        *,
        keys_B: jax.Array | None = None,
        return_layer_inputs: bool = False,
    ) -> StackOutputs:
        """Run the whole stack.

        Args:
            x_BTE: token vectors.
            inputs: positions, segments and what else this kind of stack reads.
            keys_B: one PRNG key for each row; None: no dropout.
            return_layer_inputs: whether to return every layer's input.

        Returns:
            Hidden states, and what was asked for.
        """
        cfg = self.cfg
        segments_BT = inputs.segments_BT
        x_BTD = self.front(x_BTE, inputs.positions_BT, inputs.types_BT, keys_B, inputs.languages_BT)
        block_inputs = self._block_inputs(x_BTD, inputs)
        keeps_inputs = return_layer_inputs or _memory_length(inputs) > 0
        per_layer_LBTU = self._per_layer(x_BTD, inputs.token_rows_BTE)

        def make_layer(spec: LayerSpec) -> Layer:
            shared_inputs = block_inputs._replace(keys_B=keys_B)
            if spec.query_passes:
                assert inputs.query_BTD is not None
                return _layer_on_queries(spec, shared_inputs, inputs.query_BTD)
            return _layer(
                spec, shared_inputs, segments_BT if cfg.feedforward.num_experts else None, keeps_inputs
            )

        def init(key: jax.Array) -> Any:
            # Every layer's parameters are those of a whole layer: the config of the pattern, no window.
            mask = Mask(segments_BT, segments_BT)
            block = make_block(cfg)
            # No bias: initial values do not depend on it.
            per_layer_BTU = None if per_layer_LBTU is None else per_layer_LBTU[0]
            layer_inputs = block_inputs._replace(mask=mask, bias=None, per_layer_BTU=per_layer_BTU)
            params: Any = block.init(key, x_BTD, layer_inputs)["params"]
            return _without_made(params, cfg)

        blocks = self._blocks(init)
        specs = layer_specs(
            cfg, convolution=bool(self.embedding.conv_kernel_size), query_passes=inputs.query_passes
        )
        groups = group_layers(specs)
        # Sliced before the first layer runs: slices of parameters depend on nothing else.
        group_params = [self._params_of(blocks, group) for group in groups]
        stacked_inputs = (_memory_by_layer(inputs), per_layer_LBTU)
        y_BTD = x_BTD
        stored_keys = self._no_stored_keys(x_BTD)
        outputs = (None, None)
        for group, params in zip(groups, group_params, strict=True):
            carry = (y_BTD, stored_keys)
            (y_BTD, stored_keys), outputs = self._run_group(group, params, make_layer, carry, stacked_inputs)
            if group.specs[-1].convolution:
                y_BTD = self.convolution(x_BTD, y_BTD, segments_BT, keys_B)
        if len(groups) > 1:
            # Outputs of a group are not those of all layers, and nothing reads them.
            outputs = (None, None)
        return StackOutputs(self._finish(y_BTD, keys_B), *outputs)

    def content_logits(
        self, inputs_LBTD: jax.Array, layers: Sequence[int], positions_BT: jax.Array
    ) -> list[jax.Array]:
        """Compute the attention logits of some layers, without mask and relative terms.

        Args:
            inputs_LBTD: every layer's input.
            layers: indices of the layers.
            positions_BT: int[B, T], for rotary embeddings.

        Returns:
            float32[B, N, T, T] for each of `layers`.
        """
        blocks = self._blocks()
        specs = layer_specs(self.cfg)
        logits = []
        for layer in layers:
            params = blocks if self._has_one_layer else jax.tree.map(lambda x, i=layer: x[i], blocks)
            block = make_block(specs[layer].block)
            logits.append(
                block.apply({"params": params}, inputs_LBTD[layer], positions_BT, method="content_logits")
            )
        return logits

    def encoded_keys_values(self, encoded_BSD: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Compute cross-attention's keys and values of every layer, [L, B, S, G, H] each.

        Layers with two cross-attentions have the heads of both, one after the other. They are equal for all tokens of
        a generation, and computed once.
        """

        def make_layer(block_cfg: BlockConfig) -> Layer:
            block = make_block(block_cfg)

            def layer(params: Any, carry: tuple[()], index: jax.Array, inputs: None):
                key_value = block.apply({"params": params}, encoded_BSD, method="encoded_keys_values")
                return carry, key_value

            return layer

        # Windows do not matter to cross-attention, bits of the layers do.
        cfg = self.cfg
        num_kinds = cfg.num_layers if cfg.quantization.layer_bits else 1
        layers = [make_layer(cfg.layer(kind)) for kind in range(num_kinds)] * (cfg.num_layers // num_kinds)
        _, key_value = run_layers(
            layers, cfg, self._blocks(), (), share=self._has_one_layer, repeats=Pattern(num_kinds)
        )
        return key_value

    def step(
        self,
        x_BTE: jax.Array,
        positions_BT: jax.Array,
        segments_BT: jax.Array,
        cache: KVCache,
        token_rows_BTE: jax.Array | None = None,
    ) -> tuple[jax.Array, KVCache]:
        """Run a decoder on the next T tokens of each row.

        Args:
            x_BTE: their token vectors.
            positions_BT: int[B, T], their positions inside the documents.
            segments_BT: int[B, T], their segments; 0 is padding.
            cache: keys and values of the tokens before.
            token_rows_BTE: as in StackInputs.

        Returns:
            (hidden states [B, T, D], the cache with these tokens).
        """
        cfg = self.cfg
        start = cache.num_filled
        length = x_BTE.shape[1]
        # The states in the cache belong to this segment: tokens of another one find none.
        last_segment_B = None
        if cache.states is not None:
            last_B1 = jax.lax.dynamic_slice_in_dim(cache.segments, jnp.maximum(start - 1, 0), 1, axis=1)
            last_segment_B = jnp.where(start > 0, last_B1[:, 0], -1)
        capacity = cache.segments.shape[1]
        segments = jax.lax.dynamic_update_slice(cache.segments, segments_BT, (0, start))
        cross_mask = None
        encoded = None
        if cache.cross_segments is not None:
            cross_mask = Mask(segments_BT, cache.cross_segments)
            # [L, ...], so that the scan hands each layer its own.
            encoded = (cache.cross_key, cache.cross_value)
        block_inputs = BlockInputs(
            mask=Mask(segments_BT, segments, start, cfg.causal),
            bias=self._shared_bias(length, capacity, start),
            positions_BT=positions_BT,
            cross_mask=cross_mask,
        )
        x_BTD = self.front(x_BTE, positions_BT, None, None)
        first_entry_L = np.array(caches.layout(cfg).first, np.int32)

        def make_layer(spec: LayerSpec) -> Layer:
            block = make_block(spec.block, spec.attention_norm)
            mask = block_inputs.mask._replace(window=spec.block.attention.window)

            def layer(params: Any, carry: tuple[Any, ...], index: jax.Array, layer_slice: tuple[Any, Any]):
                # The cache of all layers is in the carry, where each layer updates it in place.
                x, key, value, states = carry
                encoded_key_value, per_layer_BTU = layer_slice
                if cfg.mixer or cfg.has_unlike_layers:
                    index = jnp.asarray(first_entry_L)[index]
                layer_inputs = block_inputs._replace(
                    mask=mask,
                    cache=LayerCache(key, value, index, start, states, last_segment_B),
                    encoded_keys_values=encoded_key_value,
                    per_layer_BTU=per_layer_BTU,
                )
                out = cast(BlockOutputs, block.apply({"params": params}, x, layer_inputs))
                assert out.cache is not None
                return (out.hidden, out.cache.key, out.cache.value, out.cache.states), None

            return layer

        groups = group_layers(layer_specs(cfg))
        blocks = self._blocks()
        carry = (x_BTD, cache.key, cache.value, cache.states)
        stacked_inputs = (encoded, self._per_layer(x_BTD, token_rows_BTE))
        for group in groups:
            carry, _ = self._run_group(
                group, self._params_of(blocks, group), make_layer, carry, stacked_inputs
            )
        y_BTD, key, value, states = carry
        cache = cache._replace(
            key=key, value=value, states=states, segments=segments, num_filled=start + length
        )
        return self._finish(y_BTD, None), cache

    def _block_inputs(self, x_BTD: jax.Array, inputs: StackInputs) -> BlockInputs:
        """Return the inputs of all layers in a full pass; masks have no window yet."""
        cfg = self.cfg
        segments_BT = inputs.segments_BT
        memory_length = _memory_length(inputs)
        key_segments = segments_BT
        if memory_length:
            assert inputs.memory_segments_BM is not None
            key_segments = jnp.concatenate([inputs.memory_segments_BM, segments_BT], 1)
        if "state_space" in cfg.mixers and inputs.prefix_BT is not None:
            raise ConfigError(
                f"model.mixer = {cfg.mixer}: a state space reads from left to right; a prefix that is visible to "
                "itself as a whole (objective prefix_lm) needs attention alone"
            )
        cross_mask = None
        if inputs.encoded_BSD is not None:
            cross_mask = Mask(segments_BT, inputs.encoded_segments_BS)
        bias = self._bias(x_BTD.shape, memory_length, inputs.prefix_BT is not None)
        return BlockInputs(
            mask=Mask(segments_BT, key_segments, memory_length, cfg.causal, prefix=inputs.prefix_BT),
            bias=bias,
            positions_BT=inputs.positions_BT,
            encoded_BSD=inputs.encoded_BSD,
            cross_mask=cross_mask,
            distances_RD=self.distances() if cfg.position.kind == "disentangled" else None,
        )

    def _per_layer(self, x_BTD: jax.Array, token_rows_BTE: jax.Array | None) -> jax.Array | None:
        """Compute the per-layer inputs of the tokens, [L, B, T, U]; None: the layers have none."""
        if not self.cfg.per_layer_dim:
            return None
        assert token_rows_BTE is not None
        return self.per_layer_inputs(x_BTD, token_rows_BTE)

    def _no_stored_keys(self, x_BTD: jax.Array) -> StoredKeys:
        """Zeros in place of the keys that layers share, before the first of them; of other stacks nothing."""

        def zeros(layer: BlockConfig) -> KeysValues:
            shape = (*x_BTD.shape[:2], layer.num_kv_heads, layer.head_dim)
            return KeysValues(jnp.zeros(shape, x_BTD.dtype), jnp.zeros(shape, x_BTD.dtype))

        # The carry of a scan has all its arrays from the first layer on.
        layers = self.cfg.attentions.values() if self.cfg.attention.shared_layers else ()
        return {layer.shared_kind: zeros(layer) for layer in layers if layer.keys == "stored"}

    def _shared_bias(self, num_queries: int, num_keys: int, query_start: int | jax.Array) -> jax.Array | None:
        """The bias of all layers, learned or ALiBi's; None: positions are no such bias."""
        if self._has_shared_bias:
            return self.position_bias(num_queries, num_keys, query_start)
        if self.cfg.position.kind == "alibi":
            return alibi(self.cfg, num_queries, num_keys, query_start)
        return None

    def _bias(self, shape: tuple[int, ...], memory_length: int, has_prefix: bool) -> jax.Array | None:
        """The relative bias of all layers; once for each device where the kernel runs device by device."""
        batch, length, _ = shape
        num_keys = length + memory_length
        bias = self._shared_bias(length, num_keys, memory_length)
        if bias is None:
            return None
        is_per_device = kernel_name(self.cfg, length, has_prefix, num_keys) in ("fused", "cudnn")
        # A prefix of trained keys runs by plain einsums, which take one bias for all rows.
        return per_device_bias(bias, batch) if is_per_device and not self.cfg.adapters.prefix_length else bias

    def _run_group(
        self,
        group: LayerGroup,
        params: Any,
        make_layer: Callable[[LayerSpec], Layer],
        carry: Any,
        inputs: Any,
    ) -> tuple[Any, Any]:
        """Run a group's layers, the pattern by a scan.

        Args:
            group: the layers.
            params: theirs, from `_params_of`.
            make_layer: makes the function that runs layers of a spec.
            carry: what goes from layer to layer.
            inputs: a tree of [L, ...] arrays, of which each layer gets its own; None: none.

        Returns:
            (carry, outputs of the group's layers stacked; None of a layer on queries).
        """
        if len(group.specs) < self.cfg.num_layers:
            # Each group scans the inputs of its own layers alone.
            inputs = jax.tree.map(lambda x: x[group.start : group.stop], inputs)
        # One function for each kind of layer: equal layers share one traced program.
        functions = {spec: make_layer(spec) for spec in dict.fromkeys(group.specs)}
        layers = [functions[spec] for spec in group.specs]
        if group.specs[0].query_passes:
            # Run alone, and not rematerialised: it is one layer, and its passes share their parameters.
            carry, _ = layers[0](params, carry, group.start, None)
            return carry, (None, None)
        # The period is the config's and not the shortest one that fits: a stack of fewer layers is not
        # scanned.
        period = self.cfg.period if group.specs[0].in_pattern else 1
        places = {}
        for name, owners in self._partial.items():
            which = [place for place in range(period) if group.start + place in owners]
            if 0 < len(which) < period:
                places[name] = which
        return run_layers(
            layers,
            self.cfg,
            params,
            carry,
            inputs,
            share=self._has_one_layer,
            repeats=Pattern(period, places),
            first=group.start,
        )

    def _params_of(self, blocks: Any, group: LayerGroup) -> Any:
        """The parameters of a group's layers, [layers of the group, ...]; one layer's where they are shared.

        A layer on queries, which no scan runs, gets its own without the leading dim.
        """
        if self._has_one_layer:
            return blocks
        params = {}
        for name, part in blocks.items():
            layers = self._partial.get(name, range(self.cfg.num_layers))
            start, stop = np.searchsorted(layers, (group.start, group.stop)).tolist()
            if start == stop:
                continue
            rows: int | slice = start if group.specs[0].query_passes else slice(start, stop)
            params[name] = jax.tree.map(lambda x, rows=rows: x[rows], part)
        return params

    @property
    def _partial(self) -> dict[str, Sequence[int]]:
        """Indices of the layers that have a part, for each part that not all layers have."""
        partial: dict[str, Sequence[int]] = {}
        if not self.cfg.norm.before_first_layer:
            partial["attention_norm"] = range(1, self.cfg.num_layers)
        if len(self.cfg.mixers) > 1:
            partial |= {mixer: self.cfg.layers_with(mixer) for mixer in self.cfg.mixers}
        return partial | self.cfg.unlike_parts

    @property
    def _has_shared_bias(self) -> bool:
        """Whether one table of relative biases serves all layers (T5)."""
        return self.cfg.position.kind == "relative_bias" and not self.cfg.position.per_layer

    @property
    def _has_one_layer(self) -> bool:
        """Whether one layer's parameters serve all layers."""
        return self.share_layers and not self.cfg.shared_order

    def _blocks(self, init: Callable[[jax.Array], Any] | None = None) -> Any:
        """The layers' parameters, [L, ...], or one layer's; without `init` they exist."""
        order = self.cfg.shared_order
        num_stored = max(order) + 1 if order else self.cfg.num_layers
        blocks = layer_params(self, init, num_stored, self._has_one_layer, self._partial)
        if self.cfg.adapters.prefix_hidden:
            blocks = {**blocks, "attention": {**blocks["attention"], "prefix": self.prefix_network()}}
        return jax.tree.map(lambda x: x[jnp.array(order)], blocks) if order else blocks

    def _finish(self, y_BTD: jax.Array, keys_B: jax.Array | None) -> jax.Array:
        """Final norm and dropout."""
        if self.cfg.block_layout != "post":
            # The output's product is large: the norm must not move into its loop.
            y_BTD = fusion_barrier(self.final_norm(y_BTD))
        # Keys of a branch of their own: layers fold in 0, 1, ...
        return dropout(y_BTD, self._final_dropout, fold(keys_B, self.cfg.num_layers), FINAL)

    @property
    def _final_dropout(self) -> float:
        """Dropout rate of the output: T5 and Transformer-XL have one."""
        if self.cfg.position.absolute:
            return 0.0
        return self.cfg.dropout if self.cfg.position.kind in ("relative_bias", "relative_sinusoidal") else 0.0


def _layer(spec: LayerSpec, inputs: BlockInputs, segments_BT: jax.Array | None, keeps_inputs: bool) -> Layer:
    """Make the function that runs layers of a spec in a full pass.

    Args:
        spec: The layers.
        inputs: What all layers read; masks have no window yet, and keys are those of the stack.
        segments_BT: int[B, T], for the loads of experts; None without experts.
        keeps_inputs: Whether the input of the layer is one of its outputs.

    Returns:
        The function: the carry is the stream and the keys that layers share, layer_slice the layer's slice of the
        memory and of the per-layer inputs.
    """
    block = make_block(spec.block, spec.attention_norm)
    mask = inputs.mask._replace(window=spec.block.attention.window)

    def layer(
        params: Any, carry: tuple[jax.Array, StoredKeys], index: jax.Array, layer_slice: tuple[Any, Any]
    ):
        x, stored_keys = carry
        memory_BMD, per_layer_BTU = layer_slice
        layer_inputs = inputs._replace(
            mask=mask,
            keys_B=fold(inputs.keys_B, index),
            memory_BMD=memory_BMD,
            stored_keys=stored_keys,
            per_layer_BTU=per_layer_BTU,
        )
        out = cast(BlockOutputs, block.apply({"params": params}, x, layer_inputs))
        loads = None if segments_BT is None else _expert_loads(out.routing, segments_BT)
        return (out.hidden, dict(out.stored_keys)), (x if keeps_inputs else None, loads)

    return layer


def _layer_on_queries(spec: LayerSpec, inputs: BlockInputs, query_BTD: jax.Array) -> Layer:
    """Make the function that runs a layer on queries, which attend to its input.

    Args:
        spec: The layer, with the number of its passes.
        inputs: As for `_layer`.
        query_BTD: Added to the layer's input to make the first queries.

    Returns:
        The function.
    """
    block = make_block(spec.block, spec.attention_norm)
    mask = inputs.mask._replace(window=spec.block.attention.window)

    def layer(params: Any, carry: tuple[jax.Array, StoredKeys], index: jax.Array, layer_slice: None):
        source, stored_keys = carry
        # The queries start from the source plus vectors of their own, and always attend to the source.
        x = source + query_BTD
        for i in range(spec.query_passes):
            layer_inputs = inputs._replace(
                mask=mask, keys_B=fold(inputs.keys_B, index + i), source_BTD=source
            )
            out = cast(BlockOutputs, block.apply({"params": params}, x, layer_inputs))
            x = out.hidden
        return (x, stored_keys), None

    return layer


def _without_made(params: dict[str, Any], cfg: BlockConfig) -> dict[str, Any]:
    """The parameters of a layer that are stored: without a prefix that a network makes."""
    if not cfg.adapters.prefix_hidden:
        return params
    attention = {name: part for name, part in params["attention"].items() if name != "prefix"}
    return {**params, "attention": attention}


def _expert_loads(routing: Routing | None, segments_BT: jax.Array) -> jax.Array | None:
    """[2, X]: tokens that chose each expert, and the sum of its probabilities; padding does not count."""
    if routing is None:
        return None
    real_BT = (segments_BT > 0).astype(jnp.float32)
    return jnp.stack([jnp.einsum("bt,bte->e", real_BT, x) for x in (routing.chosen_BTX, routing.probs_BTX)])


def _memory_length(inputs: StackInputs) -> int:
    """Tokens of memory M; 0: none."""
    return 0 if inputs.memory_BLMD is None else inputs.memory_BLMD.shape[2]


def _memory_by_layer(inputs: StackInputs) -> jax.Array | None:
    """[L, B, M, D], so that the scan hands each layer its own; None without a memory."""
    if inputs.memory_BLMD is None or not _memory_length(inputs):
        return None
    return jnp.moveaxis(inputs.memory_BLMD, 1, 0)
