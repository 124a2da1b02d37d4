"""One optax transformation from a config: directions, weight decay and rates, for each leaf and layer."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tlx.base import tree
from tlx.optim.config import OPTIMIZERS, OptimizerConfig
from tlx.optim.leaves import Leaf, describe, select
from tlx.optim.per_layer import per_layer
from tlx.optim.rules import Value, by_path
from tlx.optim.schedule import Schedule


class OptimizerState(NamedTuple):
    """count: updates made. parts: {part: its optax state over the leaves that it serves}."""

    count: jax.Array
    parts: dict[str, Any]


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
    """update -= schedule(count) * rate * (direction + weight_decay * decay * parameter), leaf by leaf.

    `abstract_params` should be boxed (logical names say what is a matrix, and Muon cannot do without);
    `init` and `update` take plain trees of the same paths, nested dicts of arrays. A leaf whose rate is
    0 in all layers is frozen: no state, no update. Arithmetic is float32. `factors`: of the rates of some
    paths, on top of the config's; their weight decay per step stays what it was. Raises ConfigError.
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
        rates[path], decays[path] = rates[path] * factor, decays[path] / factor
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
        flat_grads, flat_params = _float32(grads, leaves), _float32(params, leaves)
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
            if path not in directions:
                return jnp.zeros_like(param)
            step = directions[path]
            if np.any(decays[path]):
                step += config.weight_decay * _column(decays[path], param) * flat_params[path]
            if path in adapted:
                step *= _trust_ratio(flat_params[path], step, stacked=leaves[path].layers is not None)
            return (-rate * _column(rates[path], param) * open_now[path] * step).astype(param.dtype)

        updates = tree.map_with_path(finish, params)
        return updates, OptimizerState(optax.safe_increment(state.count), states)

    return optax.GradientTransformation(init, update)


def frozen_paths(config: OptimizerConfig, abstract_params: Any) -> frozenset[str]:
    """Paths of the parameters that no update changes: their gradients need not be computed."""
    rates = _rates(config, describe(abstract_params))
    return frozenset(path for path, rate in rates.items() if not np.any(rate))


def _rates(config: OptimizerConfig, leaves: Mapping[str, Leaf]) -> dict[str, Value]:
    rates = by_path("optimizer.lr_multipliers", config.lr_multipliers, leaves, lambda leaf: 1.0)
    frozen = [(pattern, 0.0) for pattern in config.freeze]
    kept = by_path("optimizer.freeze", frozen, leaves, lambda leaf: 1.0)
    return {path: rates[path] * kept[path] for path in leaves}


def _parts(config: OptimizerConfig, leaves: Mapping[str, Leaf]) -> dict[str, _ParamGroup]:
    """Each part of the optimizer as named; where layers are seen one by one, a part for each depth."""
    parts: dict[str, _ParamGroup] = {}
    shared_out = OPTIMIZERS.load(config.name)(config, leaves)
    for part in (part for part in shared_out if part.paths):
        depths = {leaves[path].layers for path in part.paths} if part.per_layer else {None}
        for layers in sorted(depths, key=lambda depth: depth or 0):
            paths = tuple(p for p in part.paths if not part.per_layer or leaves[p].layers == layers)
            name = part.name if layers is None else f"{part.name}_{layers}_layers"
            transform = part.transform if layers is None else per_layer(part.transform)
            parts[name] = _ParamGroup(paths, transform, part.trust_ratio)
    return parts


def _trust_ratio(param: jax.Array, step: jax.Array, stacked: bool) -> jax.Array:
    """Norm of the parameter over that of the step, for each layer of a stack; 1 where either is 0."""
    dims = tuple(range(int(stacked), param.ndim))
    own, other = (jnp.sqrt(jnp.sum(jnp.square(x), axis=dims, keepdims=True)) for x in (param, step))
    return jnp.where((own > 0) & (other > 0), own / jnp.where(other > 0, other, 1.0), 1.0)


def _float32(values: Any, leaves: Mapping[str, Leaf]) -> dict[str, jax.Array]:
    flat = {path: leaf.astype(jnp.float32) for path, leaf in tree.flatten(values).items()}
    if flat.keys() != leaves.keys():
        raise ValueError(
            f"other parameters than the optimizer was made for: {sorted(flat.keys() ^ leaves.keys())}"
        )
    return flat


def _open(begin: Value, count: jax.Array, param: jax.Array) -> jax.Array | float:
    """1 for what is trained by now, for each layer where they differ; 0 for what is to come."""
    if isinstance(begin, float) and begin == 0.0:
        return 1.0
    return (count >= jnp.asarray(_column(begin, param))).astype(jnp.float32)


def _column(value: Value, param: jax.Array) -> Value:
    """One number per layer, shaped to multiply a stack."""
    return value if isinstance(value, float) else value.reshape((-1,) + (1,) * (param.ndim - 1))
