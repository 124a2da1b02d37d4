"""One training step: accumulated gradients, clipping, the skipped non-finite update, metrics."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from tlx.base import tree
from tlx.base.observed import changed, is_observed, join
from tlx.base.term import Term, mean
from tlx.optim.leaves import STACK
from tlx.training import carry as carries
from tlx.training.clipping import clip
from tlx.training.config import TrainConfig
from tlx.training.ema import next_average
from tlx.training.mixout import Mixing
from tlx.training.spikes import loss_limit, next_window
from tlx.training.state import State

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]
StepFn = Callable[[State, Batch], tuple[State, Metrics]]


class Gradients(NamedTuple):
    """Loss, gradients and per-term metrics of one batch."""

    loss: jax.Array
    """float32 []: the loss that is minimised."""
    grads: Any
    """Gradients of the trainable parameters, float32 or wider where accumulated."""
    means: Metrics
    """float32 [] for each term of the objective: its mean over the global batch."""
    carry: Any
    """Carry for the next batch."""


def make_step(
    module: Any,
    optimizer: optax.GradientTransformation,
    schedule: Callable[..., Any],
    config: TrainConfig,
    fixed: frozenset[str] = frozenset(),
) -> StepFn:
    """Return the pure function `step(state, batch) -> (state, metrics)`, to be jitted with shardings.

    Where loss or gradient is not finite, or the loss is a spike, parameters, optimizer state and carry stay as they
    were, on every process alike. `frozen` is passed through.

    Args:
        module: `module.apply({"params": p}, batch, carry, keys) -> (terms, carry)`.
        optimizer: Transformation of clipped gradients to updates.
        schedule: Learning rate by number of updates; for the metrics, the optimizer has its own.
        config: Batch size, microbatches, clipping and spikes.
        fixed: Paths of parameters that the optimizer never changes; they have no part in the gradient's norm.

    Returns:
        The step.
    """

    def step(state: State, batch: Batch) -> tuple[State, Metrics]:
        keys = row_keys(state.seed, state.step, config.batch_size)
        result = _mixed_gradients(module, state, batch, keys, config, fixed)
        grads, observations = _without_observations(result.grads)
        norm = optax.tree.norm(grads)
        # The norm is finite only where every gradient is, and it is needed for clipping anyway.
        accepted = jnp.isfinite(norm) & jnp.isfinite(result.loss)
        for observation in observations.values():
            accepted &= jnp.all(jnp.isfinite(observation))
        extra = state.extra
        limits = {}
        if config.spike.window:
            limits["loss_limit"] = loss_limit(config.spike, extra)
            accepted &= result.loss <= limits["loss_limit"]
            extra = next_window(extra, result.loss, accepted)
        updates, opt_state = optimizer.update(clip(grads, norm, config), state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        if observations:
            params = tree.map_with_path(
                lambda path, x: changed(x, observations[path]) if path in observations else x, params
            )
        # Selected leaf by leaf, not by a branch: both sides exist, and the donated buffers are reused.
        params, opt_state, carry = jax.tree.map(
            lambda new, old: jnp.where(accepted, new, old),
            (params, opt_state, result.carry),
            (state.params, state.opt_state, state.carry),
        )
        if config.ema.decay:
            extra = next_average(config.ema, extra, params, state.step - state.skipped, accepted)
        # Counted on the device: to decide on the host would wait for every step.
        skipped = 1 - accepted.astype(jnp.int32)
        metrics = {
            **result.means,
            "total_loss": result.loss,
            **limits,
            "grad_norm": norm,
            **(layer_norms(grads) if config.layer_norms else {}),
            # Without what is observed, where numbers of steps are counted.
            "param_norm": optax.tree.norm(_without_observations(params)[0]),
            # The optimizer has made one update fewer for each skipped step.
            "learning_rate": jnp.asarray(schedule(state.step - state.skipped), jnp.float32),
            "skipped": state.skipped + skipped,
            "skipped_in_a_row": (state.skipped_in_a_row + 1) * skipped,
        }
        new_state = state._replace(
            params=params,
            opt_state=opt_state,
            carry=carry,
            step=state.step + 1,
            skipped=metrics["skipped"],
            skipped_in_a_row=metrics["skipped_in_a_row"],
            extra=extra,
        )
        return new_state, metrics

    return step


def _mixed_gradients(
    module: Any,
    state: State,
    batch: Batch,
    keys: jax.Array,
    config: TrainConfig,
    fixed: frozenset[str],
) -> Gradients:
    """`gradients`, at parameters that are mixed with the base model's where train.mixout says so."""
    if not config.mixout:
        return gradients(module, state, batch, keys, config.microbatches, fixed)
    mixing = Mixing(config.mixout, state.extra, state.seed, state.step)
    mixed = state._replace(params=mixing.mixed(state.params))
    result = gradients(module, mixed, batch, keys, config.microbatches, fixed)
    return result._replace(grads=mixing.through(result.grads))


def gradients(
    module: Any,
    state: State,
    batch: Batch,
    keys: jax.Array,
    microbatches: int = 1,
    fixed: frozenset[str] = frozenset(),
) -> Gradients:
    """Compute the loss sum_t scale_t * sum_t / weight_t, weights over the whole batch, and its gradients.

    Gradients are accumulated over `microbatches` with lax.scan; the result does not depend on their number.

    Args:
        module: As in `make_step`.
        state: Train state; params, frozen and carry are read.
        batch: Arrays [B, ...] by name.
        keys: PRNG keys [B], one for each row.
        microbatches: Number of parts of the batch, computed one after the other.
        fixed: Paths of parameters without a gradient.

    Returns:
        Loss, gradients, means of the terms, and the next carry.
    """
    differentiate = partial(_loss_and_grad, module, state, fixed)
    # No scan around a single part: it would keep an accumulator beside the gradients.
    if microbatches == 1:
        (loss, (terms, carry)), grads = differentiate(batch, state.carry, keys, None)
        return Gradients(loss, grads, {name: mean(term) for name, term in terms.items()}, carry)
    # The divisors must be known before the first microbatch, or each would be weighted by its own tokens.
    weights = term_weights(module, state, batch, keys)
    dims = carries.batch_dims(module)
    parts = jax.tree.map(lambda x: carries.split(x, microbatches), (batch, keys))
    carry_parts = jax.tree.map(lambda x, dim: carries.split(x, microbatches, dim), state.carry, dims)

    def add(total: Any, part: Any) -> tuple[Any, Any]:
        (rows, row_keys), carry = part
        (loss, (terms, carry)), grads = differentiate(rows, carry, row_keys, weights)
        sums = {name: (term.sum, jnp.asarray(term.weight, jnp.float32)) for name, term in terms.items()}
        total_loss, total_sums, total_grads = total
        loss, sums = jax.tree.map(jnp.add, (total_loss, total_sums), (loss, sums))
        return (loss, sums, _joined(total_grads, grads)), carry

    # float32 sums: microbatches added up in bfloat16 would lose what is small beside the total.
    sums = {name: (jnp.zeros(()), jnp.zeros(())) for name in weights}
    zeros = (jnp.zeros(()), sums, jax.tree.map(_zeros, state.params))
    (loss, sums, grads), carry = jax.lax.scan(add, zeros, (parts, carry_parts))
    means = {name: mean(Term(*pair)) for name, pair in sums.items()}
    return Gradients(loss, grads, means, jax.tree.map(carries.join, carry, dims))


def term_weights(module: Any, state: State, batch: Batch, keys: jax.Array) -> dict[str, jax.Array]:
    """Return the global weight of each term; of a loss it depends on the batch alone.

    So the compiler drops the forward pass. A metric's weight may depend on it (the precision of a detector);
    it is not used here.

    Args:
        module: As in `make_step`.
        state: Train state.
        batch: Arrays [B, ...] by name.
        keys: PRNG keys [B].

    Returns:
        float32 [] by name of the term.
    """
    terms, _ = module.apply({"params": merge_params(state.params, state.frozen)}, batch, state.carry, keys)
    return {name: jnp.asarray(term.weight, jnp.float32) for name, term in terms.items()}


def layer_norms(grads: Any) -> Metrics:
    """Compute the norm of the gradient of each layer of each stack.

    Args:
        grads: Gradients; those of a stack have the layers as their first dim.

    Returns:
        float32 [] by "grad_norm/STACK/LAYER", layers counted from below.
    """
    squares: dict[str, jax.Array] = {}
    for path, grad in tree.flatten(grads).items():
        names = path.split("/")
        if STACK in names[:-1]:
            stack = names[names.index(STACK) - 1]
            of_leaf = jnp.sum(jnp.square(grad.astype(jnp.float32)), axis=tuple(range(1, grad.ndim)))
            squares[stack] = squares[stack] + of_leaf if stack in squares else of_leaf
    return {
        f"grad_norm/{stack}/{layer:02}": jnp.sqrt(of_layers[layer])
        for stack, of_layers in squares.items()
        for layer in range(len(of_layers))
    }


def row_keys(seed: jax.Array, step: jax.Array, batch_size: int) -> jax.Array:
    """Fold a PRNG key for each row from (seed, step, row), so that microbatches and meshes change none.

    Args:
        seed: uint32 [].
        step: int32 []: number of the step.
        batch_size: B, rows of the global batch.

    Returns:
        Typed keys [B].
    """
    # By row of the global batch and not by device: any mesh draws the same dropout.
    key = jax.random.fold_in(jax.random.key(seed), step)
    return jax.vmap(lambda row: jax.random.fold_in(key, row))(jnp.arange(batch_size))


def merge_params(params: Mapping[str, Any], frozen: Mapping[str, Any]) -> dict[str, Any]:
    """Merge trainable and frozen parameters, which share no leaf, into one tree."""
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
    """Return ((loss, (terms, carry)), gradients); `weights` None divides by the batch's own weights."""

    def loss(params: Any) -> tuple[jax.Array, Any]:
        # Stopped here and not masked later, so that no product for the gradient of a fixed one is left.
        params = tree.map_with_path(
            lambda path, x: jax.lax.stop_gradient(x) if path in fixed and not is_observed(path) else x, params
        )
        terms, new_carry = module.apply({"params": merge_params(params, state.frozen)}, batch, carry, keys)
        terms = {name: Term(term.sum, term.weight, term.loss_weight) for name, term in terms.items()}
        divisors = weights or {name: jax.lax.stop_gradient(term.weight) for name, term in terms.items()}
        parts = [
            term.loss_weight * mean(Term(term.sum, divisors[name]))
            for name, term in terms.items()
            if term.loss_weight
        ]
        # Memories are data for the next batch: no gradient flows through them.
        return sum(parts, start=jnp.zeros(())), (terms, jax.lax.stop_gradient(new_carry))

    return jax.value_and_grad(loss, has_aux=True)(state.params)


def _joined(total: Any, grads: Any) -> Any:
    """Add the gradients of a microbatch to those before it, and join its observations with theirs."""
    parts = tree.flatten(grads)
    return tree.map_with_path(
        lambda path, x: join(x, parts[path]) if is_observed(path) else jnp.add(x, parts[path]), total
    )


def _without_observations(grads: Any) -> tuple[Any, dict[str, jax.Array]]:
    """Return gradients that are zero where a parameter is observed, and the observations by path."""
    observations = {path: leaf for path, leaf in tree.flatten(grads).items() if is_observed(path)}
    if not observations:
        return grads, {}
    return tree.map_with_path(
        lambda path, x: jnp.zeros_like(x) if is_observed(path) else x, grads
    ), observations


def _zeros(param: jax.Array) -> jax.Array:
    """Return a gradient accumulator: float32 or wider, sharded over devices as the parameter is."""
    return jnp.zeros_like(param, dtype=jnp.promote_types(param.dtype, jnp.float32))
