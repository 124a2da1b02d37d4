"""Layers run by one scan over parameters that are stored stacked, [layers, ...]."""

import functools
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.core import meta

from tlx.base.errors import ConfigError
from tlx.base.platform import platform
from tlx.nn.config import BlockConfig
from tlx.parallel.sharding import PARTITION_NAME

TENSORS = (
    *("query", "key", "value", "attention", "attended"),
    *("in", "gate", "hidden", "fed", "statistics"),
)
"""Names under which a layer tags activations for remat = "name+name".

See checkpoint_name in attention.py, feedforward.py, block.py ("fed": what the feed-forward network adds to
the stream) and norm.py ("statistics": two numbers per position). """

MOST_UNROLLED = 12
"""Most layers that are unrolled on CPU by default.

An unrolled stack is the faster one there, but XLA compiles each layer of it: a deeper stack runs one layer
an iteration, so that its program does not grow with its depth. """


class Pattern(NamedTuple):
    """How the layers of a stack repeat."""

    period: int = 1
    """Number of layers after which they do. Fewer layers than that are not scanned."""

    places: Mapping[str, Sequence[int]] = types.MappingProxyType({})
    """Indices in the period of the layers that have a part, for each part that not all of them have."""


UNIFORM = Pattern()
"""All layers are alike."""

Layer = Callable[[Any, Any, Any, Any], tuple[Any, Any]]
"""(parameters of one layer, carry, index of the layer, its inputs) -> (carry, its outputs)."""


def remat_policy(name: str) -> tuple[bool, Any]:
    """Look up a rematerialisation policy.

    Args:
        name: "none", "full", "dots" or names of TENSORS joined by "+": model.execution.remat.

    Returns:
        (whether to rematerialise, the policy of jax.checkpoint that says what is saved).

    Raises:
        ConfigError: naming what is legal.
    """
    if name in ("none", "full"):
        return name == "full", jax.checkpoint_policies.nothing_saveable
    if name == "dots":
        # Products of activations with weights are kept, those of attention (with batch dims) are not.
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
    """Return the layers per iteration of the scan; by default all of a shallow stack on CPU, else one."""
    if cfg.execution.unroll:
        return min(cfg.execution.unroll, num_layers)
    return num_layers if platform() == "cpu" and num_layers <= MOST_UNROLLED else 1


def scan_note(cfg: BlockConfig, num_layers: int) -> str:
    """Say why a deep stack is not unrolled on CPU by default; empty where it is, and elsewhere."""
    if cfg.execution.unroll or platform() != "cpu" or num_layers <= MOST_UNROLLED:
        return ""
    return (
        f"{num_layers} in a scan, one an iteration: more than {MOST_UNROLLED} are not unrolled, as compiling "
        f"them takes longer with each layer (model.execution.unroll = {num_layers} does)"
    )


def stacked_init(init_one: Callable[[jax.Array], Any], num_layers: int) -> Callable[[jax.Array], Any]:
    """Make the initialiser of stacked layers, each from a key of its own, with a leading dim "layers"."""

    def init(key: jax.Array) -> Any:
        boxed = jax.vmap(init_one)(jax.random.split(key, num_layers))
        return meta.add_axis(boxed, 0, {PARTITION_NAME: "layers"})

    return init


def layer_params(
    module: nn.Module,
    init_one: Callable[[jax.Array], Any] | None,
    num_layers: int,
    share: bool,
    partial: Mapping[str, Sequence[int]] = types.MappingProxyType({}),
) -> Any:
    """Return the parameters "blocks" of a module, created where they do not exist.

    Existing ones are read without tracing the initialiser again, which would cost as much as the forward
    pass.

    Args:
        module: the stack that owns them.
        init_one: initialiser of one layer, from a key to its parameters; None where they must exist.
        num_layers: L.
        share: whether all layers have one layer's parameters (ALBERT).
        partial: indices of the layers that have a part, for each part that not all layers have.

    Returns:
        A tree of [L, ...] arrays, of a `partial` part [its layers, ...]; one layer's tree where they are shared.
    """
    if module.has_variable("params", "blocks"):
        return meta.unbox(module.get_variable("params", "blocks"))
    assert init_one is not None, "parameters must exist"
    init = init_one if share else stacked_init(init_one, num_layers)

    def of_layers_that_have_them(key: jax.Array) -> Any:
        blocks = init(key)
        # Drawn for all layers and cut: the values of the others do not depend on the parts of one.
        cut = {
            name: jax.tree.map(lambda x, layers=layers: x[np.array(layers)], blocks[name])
            for name, layers in partial.items()
            if layers
        }
        return {name: part for name, part in blocks.items() if name not in partial} | cut

    return module.param("blocks", of_layers_that_have_them if partial else init)


def run_layers(
    layers: Sequence[Layer],
    cfg: BlockConfig,
    blocks: Any,
    carry: Any,
    inputs: Any = None,
    *,
    share: bool,
    repeats: Pattern = UNIFORM,
    first: int = 0,
) -> tuple[Any, Any]:
    """Run consecutive layers by one scan over whole periods of their pattern, then what is left over.

    Args:
        layers: one function for each layer; they repeat after a period of them.
        cfg: execution.remat and execution.unroll.
        blocks: these layers' parameters, [len(layers), ...], of a part that not all have [its layers, ...]; one
            layer's where they are shared.
        carry: what goes from layer to layer.
        inputs: a tree of [len(layers), ...] arrays, of which each layer gets its own; None: none.
        share: whether all layers have one layer's parameters.
        repeats: their pattern, from the first of these layers on.
        first: index of the first of these layers in the stack.

    Returns:
        (carry, outputs of all layers stacked [len(layers), ...]).
    """
    num_layers = len(layers)
    period = repeats.period
    if not num_layers:
        return carry, None
    num_periods = num_layers // period
    num_scanned = num_periods * period
    # An iteration is a period, and cannot be less.
    unroll = max(1, unroll_of(cfg, num_layers) // period)
    # Several layers in one body need barriers against common subexpression elimination, which would undo the
    # rematerialisation; a scan of one layer an iteration does without.
    make = functools.partial(
        _sliced,
        cfg=cfg,
        shared=blocks if share else None,
        repeats=repeats,
        prevent_cse=unroll > 1 or period > 1,
    )
    pattern = [make(layer, position) for position, layer in enumerate(layers[:period])]

    def run_period(carry: Any, scanned: Any) -> tuple[Any, Any]:
        return pattern[0](carry, scanned) if period == 1 else _run_pattern(pattern, carry, scanned)

    # Indices are scanned too: dropout keys and caches depend on them.
    scanned = (None if share else blocks, first + jnp.arange(num_layers), inputs)
    pieces = []
    if num_periods:
        by_period = _take(scanned, repeats, lambda x, size: _by_period(x, num_periods, size, period))
        carry, outputs = jax.lax.scan(
            run_period, carry, by_period, length=num_periods, unroll=min(unroll, num_periods)
        )
        if period > 1:
            outputs = jax.tree.map(lambda x: x.reshape(num_scanned, *x.shape[2:]), outputs)
        pieces.append(outputs)
    if num_layers > num_scanned:
        remaining = _take(scanned, repeats, lambda x, size: x[num_periods * size :])
        carry, outputs = _run_pattern(pattern[: num_layers - num_scanned], carry, remaining)
        pieces.append(outputs)
    return carry, jax.tree.map(_concatenate, *pieces)


def _sliced(
    layer: Layer,
    position: int,
    *,
    cfg: BlockConfig,
    shared: Any,
    repeats: Pattern,
    prevent_cse: bool,
) -> Callable[[Any, Any], tuple[Any, Any]]:
    """Make a pattern's layer a function of the whole period's parameters and inputs.

    It slices its own out of them inside the rematerialised function. The scan then keeps for the backward
    pass what it is given, and no copy of each layer's slice.

    Args:
        layer: the layer.
        position: its index in the period.
        cfg: execution.remat.
        shared: the parameters of all layers where they are shared, else None.
        repeats: the pattern; a layer alone is not sliced.
        prevent_cse: whether rematerialisation needs barriers.

    Returns:
        A function from (carry, parameters, indices and inputs of a period) to (carry, outputs).
    """
    recompute, policy = remat_policy(cfg.execution.remat)

    def run(carry: Any, scanned: Any) -> tuple[Any, Any]:
        params, index, inputs = scanned
        if repeats.period > 1:
            index, inputs = jax.tree.map(lambda x: x[position], (index, inputs))
            params = _of_layer(params, repeats, position)
        return layer(params if shared is None else shared, carry, index, inputs)

    return jax.checkpoint(run, policy=policy, prevent_cse=prevent_cse) if recompute else run


def _of_layer(params: Any, repeats: Pattern, position: int) -> Any:
    """Slice the parameters of the layer at a position out of a period's; None where all layers share them."""
    if not repeats.places:
        return jax.tree.map(lambda x: x[position], params)
    own = {}
    for name, part in params.items():
        # A part is stored for the layers that have it, in their order.
        places = list(repeats.places.get(name, range(repeats.period)))
        if position in places:
            index = places.index(position)
            own[name] = jax.tree.map(lambda x, index=index: x[index], part)
    return own


def _take(
    scanned: tuple[Any, ...],
    repeats: Pattern,
    take: Callable[[jax.Array, int], jax.Array],
) -> tuple[Any, ...]:
    """Take layers of parameters, indices and inputs.

    Args:
        scanned: the three, the parameters None where all layers share them.
        repeats: the pattern.
        take: makes the part of an array of [layers, ...] of which each period has so many layers.

    Returns:
        The parts of the three.
    """
    params, *others = scanned
    period, places = repeats
    taken = jax.tree.map(lambda x: take(x, period), (None if places else params, *others))
    if not places:
        return taken
    sizes = {name: len(places[name]) if name in places else period for name in params}
    parts = {
        name: jax.tree.map(lambda x, size=sizes[name]: take(x, size), part) for name, part in params.items()
    }
    return (parts, *taken[1:])


def _by_period(x: jax.Array, num_periods: int, size: int, period: int) -> jax.Array:
    """Give an array of [layers, ...], `size` of each period, a dim for them: a scan over single layers needs none."""
    return x if period == 1 else x[: num_periods * size].reshape(-1, size, *x.shape[1:])


def _run_pattern(pattern: Sequence[Callable[..., Any]], carry: Any, scanned: Any) -> tuple[Any, Any]:
    """Run the layers of a period, or the first ones of it."""
    outputs = []
    for run in pattern:
        carry, output = run(carry, scanned)
        outputs.append(output)
    return carry, jax.tree.map(lambda *x: jnp.stack(x), *outputs)


def _concatenate(*pieces: jax.Array) -> jax.Array:
    """Join the outputs of the scan and of the layers after it."""
    return pieces[0] if len(pieces) == 1 else jnp.concatenate(pieces)
