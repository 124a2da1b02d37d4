"""The train state: everything that a step reads and writes, and nothing else."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from tlx import parallel
from tlx.models.config import ModelConfig
from tlx.nn.config import ExecutionConfig
from tlx.training import carry as carries

Shapes = Mapping[str, jax.ShapeDtypeStruct]
Split = Callable[[Any], tuple[Any, Any]]

# Abstract traces that are remembered: a start of a run needs one or two, a search over layouts a few more.
_TRACES = 8


class State(NamedTuple):
    """Pytree of all that changes from step to step; the data position and all keys follow from (seed, step).

    Field names are paths in checkpoints.
    """

    params: Any
    """Trainable parameters."""
    frozen: Any
    """Frozen parameters (a teacher, a base model under LoRA): read, never written, in no checkpoint."""
    opt_state: Any
    """Optimizer state."""
    carry: Any
    """Memories, where row b of batch k + 1 continues row b of batch k; None for a model without memories."""
    seed: jax.Array
    """uint32 []: seed of every random key."""
    step: jax.Array
    """int32 []: number of batches trained on."""
    skipped: jax.Array
    """int32 []: number of updates that were not made because loss or gradient was not finite, or the loss a spike."""
    skipped_in_a_row: jax.Array
    """int32 []: number of steps in a row, up to the last one, that made no update."""
    extra: dict[str, Any] = {}
    """Further trees by name, such as an average of the parameters. They are saved, donated and sharded like
    the rest: a leaf whose path ends in a parameter's path is sharded like it, others are replicated. Empty by
    default, so that checkpoints have no path for it."""


def boxed_params(module: Any, batch: Shapes) -> Any:
    """Return a module's abstract parameters in boxes with their logical names, without computing any.

    `module.init` is traced once for modules and batches that give the same parameters: the number of rows
    and how layers are executed (remat, attention kernel, unrolling) do not matter. The tree is shared between
    callers, who must not change it.
    """
    # Execution changes no parameter, so that one trace serves every layout of a search.
    module = _with_default_execution(module)
    # Shapes of a row alone, so that the batch of a step and that of a microbatch share one trace.
    row = tuple((name, batch[name].shape[1:], batch[name].dtype) for name in sorted(batch))
    return _remembered(_trace_params, module, row)


def frozen_params(module: Any) -> Any:
    """Return a module's abstract frozen parameters in boxes; {} for a module that has none."""
    if getattr(module, "frozen", None) is None:
        return {}
    return _remembered(_trace_frozen, _with_default_execution(module))


def init_state(
    module: Any,
    optimizer: optax.GradientTransformation,
    batch: Mapping[str, Any],
    batch_size: int,
    seed: int | jax.Array,
    frozen: Any = None,
    partition_params: Split = lambda params: (params, {}),
) -> State:
    """Draw the initial train state without frozen parameters, which only initialise trainable ones.

    To be jitted with `out_shardings`, so that no device ever holds a whole array that is sharded. Parameters
    depend on the seed alone, not on the mesh.

    Args:
        module: Module whose parameters are drawn.
        optimizer: Optimizer whose state is initialised.
        batch: Arrays or abstract arrays [B, ...] by name; only their shapes and dtypes are used.
        batch_size: Rows of the carry.
        seed: uint32 seed of the run.
        frozen: Frozen parameters that `module.begin` may initialise others from.
        partition_params: Splits the module's parameters into (trainable, frozen).

    Returns:
        The state before the first step, its `frozen` empty.
    """
    key = jax.random.fold_in(jax.random.key(seed), 2**32 - 1)  # no step folds in this number
    params = parallel.unbox(_draw_params(module, batch, key))
    return state_from_params(module, optimizer, params, batch_size, seed, frozen, partition_params)


def state_from_params(
    module: Any,
    optimizer: optax.GradientTransformation,
    params: Any,
    batch_size: int,
    seed: int | jax.Array,
    frozen: Any = None,
    partition_params: Split = lambda params: (params, {}),
) -> State:
    """Return the initial train state of drawn parameters, as `init_state` does.

    Under `jax.eval_shape`, with abstract parameters, it gives the abstract state without tracing
    `module.init` again.

    Args:
        module: Module that the parameters belong to.
        optimizer: Optimizer whose state is initialised.
        params: Unboxed parameters as `module.init` draws them.
        batch_size: Rows of the carry.
        seed: uint32 seed of the run.
        frozen: Frozen parameters that `module.begin` may initialise others from.
        partition_params: Splits the module's parameters into (trainable, frozen).

    Returns:
        The state before the first step, its `frozen` empty.
    """
    trainable, _ = partition_params(initial_params(module, params, frozen))
    return State(
        params=trainable,
        # Filled in later from where they are stored: a teacher is never drawn and thrown away.
        frozen={},
        opt_state=optimizer.init(trainable),
        carry=carries.initial_carry(module, batch_size),
        seed=jnp.asarray(seed, jnp.uint32),
        step=jnp.zeros((), jnp.int32),
        skipped=jnp.zeros((), jnp.int32),
        skipped_in_a_row=jnp.zeros((), jnp.int32),
        extra={},
    )


def initial_params(module: Any, params: Any, frozen: Any) -> Any:
    """Return the parameters that training starts from.

    Args:
        module: Module that may define `begin(params, frozen)`.
        params: Parameters as drawn.
        frozen: Frozen parameters, of which `begin` may take over some (a student's layers from a teacher).

    Returns:
        `module.begin(params, frozen)`, or `params` where the module does not define it.
    """
    initialise = getattr(module, "begin", None)
    return params if initialise is None else initialise(params, frozen)


def saved_part(state: State) -> dict[str, Any]:
    """Return what a checkpoint holds of a state, by field: all but the frozen parameters."""
    # Frozen parameters are read again from where they came from: a run directory is not as large as its base.
    return {name: value for name, value in state._asdict().items() if name != "frozen"}


def _draw_params(module: Any, batch: Mapping[str, Any], key: jax.Array) -> Any:
    """Draw boxed parameters from one row of zeros: the forward pass is not used, so it is not computed."""
    # No parameter depends on the number of rows; of one row the compiler drops all but the draws.
    row = {name: jnp.zeros((1, *leaf.shape[1:]), leaf.dtype) for name, leaf in batch.items()}
    # One row may be several sequences (the choices of a question), which the mesh need not divide.
    with parallel.unconstrained():
        return module.init(key, row, carries.initial_carry(module, 1), None)["params"]


def _with_default_execution(module: Any) -> Any:
    """Return the module with plain execution, on which neither names nor shapes of parameters depend."""
    model = getattr(module, "model", None)
    if not isinstance(model, ModelConfig):
        return module
    # One layer of the scan is enough to trace, and no kernel of another platform is asked for.
    plain = ExecutionConfig(attention="xla", unroll=1)
    return module.clone(model=dataclasses.replace(model, execution=plain))


def _remembered(trace: Callable[..., Any], *key: Any) -> Any:
    """Call a cached trace; a module whose config cannot be hashed (it holds a dict) is traced anew."""
    try:
        hash(key)
    except TypeError:
        return trace.__wrapped__(*key)
    return trace(*key)


@functools.lru_cache(_TRACES)
def _trace_params(module: Any, row: tuple[tuple[str, tuple[int, ...], Any], ...]) -> Any:
    batch = {name: jax.ShapeDtypeStruct((1, *shape), dtype) for name, shape, dtype in row}
    return jax.eval_shape(lambda key: _draw_params(module, batch, key), jax.random.key(0))


@functools.lru_cache(_TRACES)
def _trace_frozen(module: Any) -> Any:
    return module.frozen()
