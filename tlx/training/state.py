"""The state of a run: everything that a step reads and writes, and nothing else."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from tlx import parallel
from tlx.training import carry as carries

Split = Callable[[Any], tuple[Any, Any]]


class State(NamedTuple):
    """A pytree. With (seed, step) the data position and all random keys are known too."""

    params: Any  # trainable
    frozen: Any  # a teacher, a base under LoRA: read, never written, never saved
    opt_state: Any
    carry: Any  # row b of batch k + 1 continues row b of batch k; None without memories
    seed: jax.Array  # uint32 []
    step: jax.Array  # int32 []: batches seen
    skipped: jax.Array  # int32 []: of these, how many were not finite and changed nothing
    skipped_in_a_row: jax.Array  # int32 []: how many in a row, up to now


def boxed_params(module: Any, batch: dict[str, Any]) -> Any:
    """Abstract parameters in boxes with their logical names, of a module that reads such a batch."""
    return jax.eval_shape(lambda key: _init(module, batch, key), jax.random.key(0))


def init_state(
    module: Any,
    optimizer: optax.GradientTransformation,
    batch: dict[str, Any],
    batch_size: int,
    seed: int | jax.Array,
    frozen: Any = None,
    partition_params: Split = lambda params: (params, {}),
) -> State:
    """The state before the first step, but for its frozen part, which only says where parameters begin;
    `batch` gives the keys, shapes and dtypes of a batch, `apart` what is trained and what is frozen of the
    module's parameters.

    Traced by `jax.eval_shape` for the abstract state, and jitted with `out_shardings`, so that no device
    ever holds a whole array that is split. Parameters depend on the seed alone, not on the mesh.
    """
    key = jax.random.fold_in(jax.random.key(seed), 2**32 - 1)  # no step folds in this number
    params, _ = partition_params(initial_params(module, parallel.unbox(_init(module, batch, key)), frozen))
    return State(
        params=params,
        frozen={},
        opt_state=optimizer.init(params),
        carry=carries.initial_carry(module, batch_size),
        seed=jnp.asarray(seed, jnp.uint32),
        step=jnp.zeros((), jnp.int32),
        skipped=jnp.zeros((), jnp.int32),
        skipped_in_a_row=jnp.zeros((), jnp.int32),
    )


def frozen_params(module: Any) -> Any:
    """Abstract frozen parameters in boxes; {} for a module that has none."""
    made = getattr(module, "frozen", None)
    return {} if made is None else made()


def initial_params(module: Any, params: Any, frozen: Any) -> Any:
    """The parameters that training starts from: as drawn, or what the module makes of the frozen ones."""
    made = getattr(module, "begin", None)
    return params if made is None else made(params, frozen)


def _init(module: Any, batch: dict[str, Any], key: jax.Array) -> Any:
    """Parameters from one row of zeros: the forward's result is not used, so it is not computed."""
    row = {name: jnp.zeros((1, *leaf.shape[1:]), leaf.dtype) for name, leaf in batch.items()}
    return module.init(key, row, carries.initial_carry(module, 1), None)["params"]
