"""Layers run by one scan over parameters that are stored stacked, [layers, ...]."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import meta

from tlx.base.errors import ConfigError
from tlx.base.platform import platform
from tlx.nn.config import BlockConfig
from tlx.parallel.sharding import PARTITION_NAME

# What the parts of a block tag for remat = "name+name": see checkpoint_name in attention.py, feedforward.py,
# block.py (fed: what the feed-forward adds) and norm.py (statistics: two numbers of a place).
TENSORS = (
    *("query", "key", "value", "attention", "attended"),
    *("in", "gate", "hidden", "fed", "statistics"),
)

Layer = Callable[[Any, Any, jax.Array, Any], tuple[Any, Any]]


def remat_policy(name: str) -> tuple[bool, Any]:
    """(whether to recompute, what to keep) for a policy's name; ConfigError with the legal names."""
    if name in ("none", "full"):
        return name == "full", jax.checkpoint_policies.nothing_saveable
    if name == "dots":
        return True, jax.checkpoint_policies.dots_with_no_batch_dims_saveable
    names = name.split("+")
    unknown = [part for part in names if part not in TENSORS]
    if unknown:
        raise ConfigError(
            f"model.execution.remat = {name!r}: {unknown[0]!r} is not one of: none, full, dots, "
            f"or tensors to keep joined by '+' among {', '.join(TENSORS)}"
        )
    return True, jax.checkpoint_policies.save_only_these_names(*names)


def unroll_of(cfg: BlockConfig, num_layers: int) -> int:
    """Layers per iteration of the scan: all of them on CPU, where that is faster, one elsewhere."""
    unroll = cfg.execution.unroll or (num_layers if platform() == "cpu" else 1)
    return min(unroll, num_layers)


def stacked_init(init_one: Callable[[jax.Array], Any], num_layers: int) -> Callable[[jax.Array], Any]:
    """The initialiser of `num_layers` layers, each from a key of its own, with a leading dim "layers"."""

    def init(key: jax.Array) -> Any:
        boxed = jax.vmap(init_one)(jax.random.split(key, num_layers))
        return meta.add_axis(boxed, 0, {PARTITION_NAME: "layers"})

    return init


def layer_params(
    module: nn.Module,
    init_one: Callable[[jax.Array], Any],
    num_layers: int,
    share: bool,
    absent: Sequence[str] = (),
) -> Any:
    """The parameters called "blocks" of `module`: [layers, ...] each, or one layer's where they share.

    The parts `absent` from the first layer are [layers - 1, ...], those of the layers behind it. Read
    without tracing the initialiser again, which would cost as much as the forward pass.
    """
    if module.has_variable("params", "blocks"):
        return meta.unbox(module.get_variable("params", "blocks"))
    init = init_one if share else stacked_init(init_one, num_layers)

    def without_first(key: jax.Array) -> Any:
        blocks = init(key)
        return blocks | {name: jax.tree.map(lambda x: x[1:], blocks[name]) for name in absent}

    return module.param("blocks", without_first if absent else init)


def run_layers(
    layers: Sequence[Layer],
    cfg: BlockConfig,
    blocks: Any,
    carry: Any,
    inputs: Any = None,
    *,
    num_layers: int,
    share: bool,
    first: int = 0,
) -> tuple[Any, Any]:
    """Scans `layer(params, carry, index, inputs[index]) -> (carry, output)`; outputs are stacked.

    `layers` are those of one period of the pattern, which differ in what is static; one scan goes over the
    whole periods, and the layers that are left over follow it. Parameters stay stacked [num_layers, ...].
    `first` is the index of the first.
    """
    if not num_layers:
        return carry, None
    recompute, policy = remat_policy(cfg.execution.remat)
    period = len(layers)
    periods, unroll = num_layers // period, max(1, unroll_of(cfg, num_layers) // period)
    if recompute:
        prevent_cse = unroll > 1 or period > 1
        layers = [jax.checkpoint(layer, policy=policy, prevent_cse=prevent_cse) for layer in layers]

    def some(carry: Any, scanned: Any, count: int) -> tuple[Any, Any]:
        outputs = []
        for place, layer in enumerate(layers[:count]):
            params, index, layer_inputs = jax.tree.map(lambda x, place=place: x[place], scanned)
            carry, output = layer(blocks if share else params, carry, index, layer_inputs)
            outputs.append(output)
        return carry, jax.tree.map(lambda *x: jnp.stack(x), *outputs)

    scanned = (None if share else blocks, first + jnp.arange(num_layers), inputs)
    whole = jax.tree.map(lambda x: x[: periods * period].reshape(periods, period, *x.shape[1:]), scanned)
    pieces = []
    if periods:
        body = lambda carry, scanned: some(carry, scanned, period)  # noqa: E731
        carry, outputs = jax.lax.scan(body, carry, whole, length=periods, unroll=min(unroll, periods))
        pieces.append(jax.tree.map(lambda x: x.reshape(periods * period, *x.shape[2:]), outputs))
    if num_layers % period:
        rest = jax.tree.map(lambda x: x[periods * period :], scanned)
        carry, outputs = some(carry, rest, num_layers % period)
        pieces.append(outputs)
    return carry, jax.tree.map(lambda *x: jnp.concatenate(x) if len(x) > 1 else x[0], *pieces)
