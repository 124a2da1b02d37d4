"""The optax transformation of a config: steps, weight decay and learning rates of each leaf and layer."""

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tlx.base import tree
from tlx.base.observed import is_observed
from tlx.optim.config import OPTIMIZERS, OptimizerConfig
from tlx.optim.leaves import Leaf, describe, select
from tlx.optim.per_layer import per_layer
from tlx.optim.rules import Value, by_path
from tlx.optim.schedule import Schedule


class OptimizerState(NamedTuple):
    """State of the optimizer."""

    count: jax.Array
    """int32[], updates made."""
    parts: dict[str, Any]
    """optax state of each group of parameters, by the group's name."""


class _ParamGroup(NamedTuple):
    paths: tuple[str, ...]
    transform: optax.GradientTransformation
    trust_ratio: bool


def make_optimizer(
    config: OptimizerConfig,
    schedule: Schedule,
    abstract_params: Any,
    factors: Mapping[str, float] | None = None,
) -> optax.GradientTransformation:
    """Build the optimizer: update = -schedule(count) * lr multiplier * (step + weight decay * parameter).

    A leaf whose learning rate multiplier is 0 in all layers is frozen: it has no state and no update. Arithmetic
    is float32.

    Args:
        config: The optimizer's config.
        schedule: From the number of updates to the learning rate.
        abstract_params: The parameters, boxed where logical names are known: they tell what is a matrix, and
            Muon needs them. `init` and `update` take plain nested dicts of the same paths.
        factors: Further learning rate multipliers by path (of the parametrization); the weight decay of a step
            stays the same.

    Returns:
        The transformation.

    Raises:
        ConfigError: A value or a rule of the config is not usable.
    """
    config.validate()
    leaves = describe(abstract_params)
    rates = _rates(config, leaves)
    decays = by_path(
        "optimizer.weight_decay_multipliers",
        config.weight_decay_multipliers,
        leaves,
        lambda leaf: float(leaf.is_matrix),
    )
    for path, factor in (factors or {}).items():
        rates[path] = rates[path] * factor
        decays[path] = decays[path] / factor
    begins = by_path("optimizer.unfreeze", config.unfreeze, leaves, lambda leaf: 0.0)
    trained = {path: leaf for path, leaf in leaves.items() if np.any(rates[path])}
    parts = _parts(config, trained)
    adapted = {
        path for part in parts.values() if part.trust_ratio for path in part.paths if leaves[path].is_matrix
    }

    def init(params: Any) -> OptimizerState:
        flat = _float32(params, leaves)
        states = {name: part.transform.init(select(flat, part.paths)) for name, part in parts.items()}
        return OptimizerState(jnp.zeros((), jnp.int32), states)

    def update(grads: Any, state: OptimizerState, params: Any = None) -> tuple[Any, OptimizerState]:
        # Moments and steps are float32 whatever the parameters are: in bfloat16 a small step would be lost.
        flat_grads = _float32(grads, leaves)
        flat_params = _float32(params, leaves)
        open_now = {path: _open(begins[path], state.count, leaf) for path, leaf in flat_params.items()}
        flat_grads = {path: grad * open_now[path] for path, grad in flat_grads.items()}
        directions: dict[str, jax.Array] = {}
        states = {}
        for name, part in parts.items():
            inputs = (select(flat_grads, part.paths), state.parts[name], select(flat_params, part.paths))
            direction, states[name] = part.transform.update(*inputs)
            directions.update(tree.flatten(direction))
        rate = schedule(state.count)

        def finish(path: str, param: jax.Array) -> jax.Array:
            # Frozen parameters are in no group, and have no state.
            if path not in directions:
                return jnp.zeros_like(param)
            step = directions[path]
            # Decided while tracing: parameters without decay are not read again.
            if np.any(decays[path]):
                step += config.weight_decay * _column(decays[path], param) * flat_params[path]
            # After weight decay, which LAMB's ratio includes.
            if path in adapted:
                step *= _trust_ratio(flat_params[path], step, stacked=leaves[path].layers is not None)
            return (-rate * _column(rates[path], param) * open_now[path] * step).astype(param.dtype)

        updates = tree.map_with_path(finish, params)
        count = cast(jax.Array, optax.safe_increment(state.count))
        return updates, OptimizerState(count, states)

    # optax names the first parameter `updates` and passes it by position.
    return optax.GradientTransformation(init, cast(optax.TransformUpdateFn, update))


def frozen_paths(config: OptimizerConfig, abstract_params: Any) -> frozenset[str]:
    """Return the paths of parameters that no update changes, whose gradients need not be computed."""
    rates = _rates(config, describe(abstract_params))
    return frozenset(path for path, rate in rates.items() if not np.any(rate))


def _rates(config: OptimizerConfig, leaves: Mapping[str, Leaf]) -> dict[str, Value]:
    rates = by_path("optimizer.lr_multipliers", config.lr_multipliers, leaves, lambda leaf: 1.0)
    frozen = [(pattern, 0.0) for pattern in config.freeze]
    not_frozen = by_path("optimizer.freeze", frozen, leaves, lambda leaf: 1.0)
    # What a step changes by observations (base/observed.py) is no business of an optimizer.
    return {path: 0.0 if is_observed(path) else rates[path] * not_frozen[path] for path in leaves}


def _parts(config: OptimizerConfig, leaves: Mapping[str, Leaf]) -> dict[str, _ParamGroup]:
    """Return the optimizer's groups by name; a group that is applied per layer is one for each depth of stack."""
    parts: dict[str, _ParamGroup] = {}
    groups = OPTIMIZERS.load(config.name, allow=None)(config, leaves)
    for part in (part for part in groups if part.paths):
        depths = {leaves[path].layers for path in part.paths} if part.per_layer else {None}
        for layers in sorted(depths, key=lambda depth: depth or 0):
            paths = tuple(p for p in part.paths if not part.per_layer or leaves[p].layers == layers)
            name = part.name if layers is None else f"{part.name}_{layers}_layers"
            vectorised = layers is not None and not part.knows_stacks
            transform = per_layer(part.transform) if vectorised else part.transform
            parts[name] = _ParamGroup(paths, transform, part.trust_ratio)
    return parts


def _trust_ratio(param: jax.Array, step: jax.Array, stacked: bool) -> jax.Array:
    """Return the norm of the parameter over that of the step, for each layer; 1 where either is 0."""
    dims = tuple(range(int(stacked), param.ndim))
    param_norm = jnp.sqrt(jnp.sum(jnp.square(param), axis=dims, keepdims=True))
    step_norm = jnp.sqrt(jnp.sum(jnp.square(step), axis=dims, keepdims=True))
    # The inner where keeps the division finite where it is not used.
    ratio = param_norm / jnp.where(step_norm > 0, step_norm, 1.0)
    return jnp.where((param_norm > 0) & (step_norm > 0), ratio, 1.0)


def _float32(values: Any, leaves: Mapping[str, Leaf]) -> dict[str, jax.Array]:
    flat = {path: leaf.astype(jnp.float32) for path, leaf in tree.flatten(values).items()}
    if flat.keys() != leaves.keys():
        raise ValueError(
            f"other parameters than the optimizer was made for: {sorted(flat.keys() ^ leaves.keys())}"
        )
    return flat


def _open(begin: Value, count: jax.Array, param: jax.Array) -> jax.Array | float:
    """Return 1 for what is trained at this update and 0 for what is not yet, for each layer where they differ."""
    if isinstance(begin, float) and begin == 0.0:
        return 1.0
    return (count >= jnp.asarray(_column(begin, param))).astype(jnp.float32)


def _column(value: Value, param: jax.Array) -> Value:
    """Return one number per layer, shaped to multiply a stack."""
    return value if isinstance(value, float | int) else value.reshape((-1,) + (1,) * (param.ndim - 1))
