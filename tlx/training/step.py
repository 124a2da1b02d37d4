"""One training step: microbatched gradients, clipping, the skipped non-finite update, metrics."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from tlx.base import tree
from tlx.base.term import Term, mean
from tlx.training import carry as carries
from tlx.training.config import TrainConfig
from tlx.training.state import State

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]
StepFn = Callable[[State, Batch], tuple[State, Metrics]]


class Gradients(NamedTuple):
    """What one batch says: the loss that is minimised, its gradient, and the terms it is made of."""

    loss: jax.Array
    grads: Any
    means: Metrics
    carry: Any


def make_step(
    module: Any,
    optimizer: optax.GradientTransformation,
    schedule: Callable,
    config: TrainConfig,
    fixed: frozenset[str] = frozenset(),
) -> StepFn:
    """`step(state, batch) -> (state, metrics)`, pure; to be jitted with the state's shardings.

    `module.apply({"params": p}, batch, carry, keys) -> (terms, carry)`. Where loss or gradient is not
    finite, parameters, optimizer state and carry stay as they were, on every process alike. `fixed`: paths
    of parameters that the optimizer never changes; they have no part in the gradient or its norm.
    """

    def step(state: State, batch: Batch) -> tuple[State, Metrics]:
        keys = row_keys(state.seed, state.step, config.batch_size)
        result = gradients(module, state, batch, keys, config.microbatches, fixed)
        norm = optax.tree.norm(result.grads)
        finite = jnp.isfinite(norm) & jnp.isfinite(result.loss)
        updates, opt_state = optimizer.update(
            _clip(result.grads, norm, config), state.opt_state, state.params
        )
        params = optax.apply_updates(state.params, updates)
        params, opt_state, carry = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old),
            (params, opt_state, result.carry),
            (state.params, state.opt_state, state.carry),
        )
        skipped = 1 - finite.astype(jnp.int32)
        metrics = {
            **result.means,
            "total_loss": result.loss,
            "grad_norm": norm,
            "param_norm": optax.tree.norm(params),
            "learning_rate": jnp.asarray(schedule(state.step - state.skipped), jnp.float32),
            "skipped": state.skipped + skipped,
            "skipped_in_a_row": (state.skipped_in_a_row + 1) * skipped,
        }
        new = state._replace(params=params, opt_state=opt_state, carry=carry, step=state.step + 1)
        return new._replace(skipped=metrics["skipped"], skipped_in_a_row=metrics["skipped_in_a_row"]), metrics

    return step


def gradients(
    module: Any,
    state: State,
    batch: Batch,
    keys: jax.Array,
    microbatches: int = 1,
    fixed: frozenset[str] = frozenset(),
) -> Gradients:
    """Loss sum_t scale_t * sum_t / weight_t with weights over the whole batch, and its gradient.

    The batch is worked through in `microbatches` parts by a scan; equal for any number of them. keys: [B].
    """
    differentiate = partial(_loss_and_grad, module, state, fixed)
    if microbatches == 1:
        (loss, (terms, carry)), grads = differentiate(batch, state.carry, keys, None)
        return Gradients(loss, grads, {name: mean(term) for name, term in terms.items()}, carry)
    weights = term_weights(module, state, batch, keys)
    dims = carries.batch_dims(module)
    parts = jax.tree.map(lambda x: carries.split(x, microbatches), (batch, keys))
    carry_parts = jax.tree.map(lambda x, dim: carries.split(x, microbatches, dim), state.carry, dims)

    def add(total: Any, part: Any) -> tuple[Any, Any]:
        (rows, row_keys), carry = part
        (loss, (terms, carry)), grads = differentiate(rows, carry, row_keys, weights)
        sums = {name: (term.sum, jnp.asarray(term.weight, jnp.float32)) for name, term in terms.items()}
        return jax.tree.map(jnp.add, total, (loss, sums, grads)), carry

    sums = {name: (jnp.zeros(()), jnp.zeros(())) for name in weights}
    zeros = (jnp.zeros(()), sums, jax.tree.map(_zeros, state.params))
    (loss, sums, grads), carry = jax.lax.scan(add, zeros, (parts, carry_parts))
    means = {name: mean(Term(*pair)) for name, pair in sums.items()}
    return Gradients(loss, grads, means, jax.tree.map(carries.join, carry, dims))


def term_weights(module: Any, state: State, batch: Batch, keys: jax.Array) -> dict[str, jax.Array]:
    """The global weight of each term. A loss's depends on the batch alone: the compiler drops the forward.

    A metric's need not (the precision of a detector): it is not used here.
    """
    terms, _ = module.apply({"params": merge_params(state.params, state.frozen)}, batch, state.carry, keys)
    return {name: jnp.asarray(term.weight, jnp.float32) for name, term in terms.items()}


def row_keys(seed: jax.Array, step: jax.Array, batch_size: int) -> jax.Array:
    """Typed keys [B], each folded from (seed, step, row): microbatches and meshes do not change them."""
    key = jax.random.fold_in(jax.random.key(seed), step)
    return jax.vmap(lambda row: jax.random.fold_in(key, row))(jnp.arange(batch_size))


def merge_params(params: Mapping[str, Any], frozen: Mapping[str, Any]) -> dict[str, Any]:
    """One tree of the trainable and the frozen parameters, which share no leaf."""
    joined = dict(params)
    for name, value in frozen.items():
        joined[name] = merge_params(joined[name], value) if name in joined else value
    return joined


def _loss_and_grad(
    module: Any,
    state: State,
    fixed: frozenset[str],
    batch: Batch,
    carry: Any,
    keys: jax.Array,
    weights: dict[str, jax.Array] | None,
) -> Any:
    def loss(params: Any) -> tuple[jax.Array, Any]:
        params = tree.map_with_path(lambda path, x: jax.lax.stop_gradient(x) if path in fixed else x, params)
        terms, new_carry = module.apply({"params": merge_params(params, state.frozen)}, batch, carry, keys)
        terms = {name: Term(term.sum, term.weight, term.loss_weight) for name, term in terms.items()}
        divisors = weights or {name: jax.lax.stop_gradient(term.weight) for name, term in terms.items()}
        parts = [
            term.loss_weight * mean(Term(term.sum, divisors[name]))
            for name, term in terms.items()
            if term.loss_weight
        ]
        return sum(parts, start=jnp.zeros(())), (terms, jax.lax.stop_gradient(new_carry))

    return jax.value_and_grad(loss, has_aux=True)(state.params)


def _clip(grads: Any, norm: jax.Array, config: TrainConfig) -> Any:
    if config.clip_norm is None:
        return grads
    factor = jnp.minimum(1.0, config.clip_norm / jnp.maximum(norm, 1e-12))
    return jax.tree.map(lambda grad: (grad * factor).astype(grad.dtype), grads)


def _zeros(param: jax.Array) -> jax.Array:
    """An accumulator for the gradient: float32 at least, split over devices as the parameter is."""
    return jnp.zeros_like(param, dtype=jnp.promote_types(param.dtype, jnp.float32))
