"""The jitted train step of a config on a mesh, with its abstract inputs and outputs."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from tlx import parallel
from tlx.adapt.parts import split
from tlx.adapt.rates import adapted_optimizer_config
from tlx.base.errors import ConfigError
from tlx.models import parametrization
from tlx.nn.weight_formats import quantized_shapes
from tlx.optim import frozen_paths, make_optimizer, make_schedule
from tlx.optim import state_shardings as opt_state_shardings
from tlx.rollouts.base import RolloutTask
from tlx.rollouts.step import SampleFn, make_sample, make_updates
from tlx.run.config import RunConfig, get_objective
from tlx.run.spec import abstract_batch, training_module
from tlx.training import carry as carries
from tlx.training import ema
from tlx.training.state import State, boxed_params, frozen_params, init_state, state_from_params
from tlx.training.step import StepFn, make_step


class Program(NamedTuple):
    """The jitted train step with its abstract, sharded inputs and outputs; it holds no array."""

    module: Any
    """Linen module: apply({"params": p}, batch, carry, keys) -> (terms, carry)."""
    mesh: Mesh | AbstractMesh
    """Device mesh; abstract where nothing is to run."""
    rules: parallel.ShardingRules
    """Sharding rules from logical dim names to mesh axes."""
    boxed: Any
    """Abstract parameters in boxes with their logical names."""
    state: State
    """Abstract train state, each leaf with its sharding."""
    batch: dict[str, jax.ShapeDtypeStruct]
    """Abstract global batch [B, ...] by name, each array with its sharding."""
    init: Callable[[Any, Any], State]
    """Jitted (frozen parameters, uint32 seed) -> initial state without frozen parameters, created sharded."""
    step: StepFn
    """Jitted (state, batch) -> (state, metrics); donates the state."""
    sample: SampleFn | None = None
    """Jitted (state, prompts) -> (batch with answers, what the host sees of them), of a task that samples its own
    answers; `step` is then what follows the rewards."""

    def use(self) -> AbstractContextManager[None]:
        """Return the context, mesh and rules, in which init and step are called, traced or lowered."""
        return parallel.use(self.mesh, self.rules)


def build_program(config: RunConfig, spec: Any, mesh: Mesh | AbstractMesh) -> Program:
    """Build the jitted step of a run on a mesh; nothing is compiled or computed.

    Args:
        config: Checked config; its seed does not matter.
        spec: Spec or TaskSpec of the run's examples.
        mesh: Mesh of this process, of devices that are only compiled for, or without devices.

    Returns:
        The program.

    Raises:
        ConfigError: Where a parameter or the batch does not divide over the mesh.
    """
    if config.model.quantization.integers:
        raise ConfigError(
            "model.quantization.integers = True: products of integers have no gradient; train with False, and use "
            "tlx.load(RUN).with_integers() of what was trained"
        )
    rules = parallel.rules(config.mesh)
    module = training_module(config, spec.vocab)
    batch = abstract_batch(config, spec)
    boxed = boxed_params(module, batch)
    partition_params = partial(split, config.adapt)
    trainable, base = partition_params(boxed)
    if config.base.param_dtype:
        # The base model stays as it is stored: only what is trained needs float32.
        dtype = np.dtype(config.base.param_dtype)
        base = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), base)
    base = quantized_shapes(base, config.adapt.base_weights)
    frozen = frozen_params(module) | base
    task = get_objective(config)
    num_updates = config.train.steps * task.updates_per_step(config.objective)
    optimizer_config = adapted_optimizer_config(
        config.optimizer, config.adapt, module.model, trainable, num_updates
    )
    schedule = make_schedule(optimizer_config, num_updates)
    lr_multipliers = parametrization.lr_multipliers(module.model, optimizer_config, trainable)
    optimizer = make_optimizer(optimizer_config, schedule, trainable, lr_multipliers)
    batch_size = config.train.batch_size

    def init(frozen: Any, seed: Any) -> State:
        state = init_state(module, optimizer, batch, batch_size, seed, frozen, partition_params)
        return state._replace(extra=initial_extra(config, state.params))

    def init_from(params: Any, frozen: Any, seed: Any) -> State:
        state = state_from_params(module, optimizer, params, batch_size, seed, frozen, partition_params)
        return state._replace(extra=initial_extra(config, state.params))

    # From the abstract parameters: to trace `init` would trace the whole model a second time.
    state = jax.eval_shape(init_from, parallel.unbox(boxed), parallel.unbox(frozen), np.uint32(0))
    shardings = state_shardings(state, trainable, frozen, module, mesh, rules)
    batch_shardings = parallel.batch_sharding(mesh, rules, batch)
    replicated = NamedSharding(mesh, PartitionSpec())
    # The step is jitted with the shardings of its own results, so that no step reshards the state.
    fixed = frozen_paths(optimizer_config, trainable)
    make_update = lambda train: make_step(module, optimizer, schedule, train, fixed)  # noqa: E731
    step = make_update(config.train)
    sample = None
    if isinstance(task, RolloutTask):
        step = make_updates(task, config.objective, config.train, make_update)
        sample = jax.jit(
            make_sample(module, spec),
            in_shardings=(shardings, batch_shardings),
            # Replicated for the host: every process computes all rewards.
            out_shardings=(batch_shardings, replicated),
        )
    return Program(
        module=module,
        mesh=mesh,
        rules=rules,
        boxed=boxed,
        state=jax.tree.map(_with_sharding, state._replace(frozen=parallel.unbox(frozen)), shardings),
        batch=jax.tree.map(_with_sharding, batch, batch_shardings),
        init=jax.jit(
            init,
            in_shardings=(shardings.frozen, replicated),
            out_shardings=shardings._replace(frozen={}),
        ),
        step=jax.jit(
            step,
            in_shardings=(shardings, batch_shardings),
            out_shardings=(shardings, replicated),
            donate_argnums=0,
        ),
        sample=sample,
    )


def initial_extra(config: RunConfig, params: Any) -> dict[str, Any]:
    """Return State.extra before the first step: the window of losses, the average, and what the task keeps.

    Args:
        config: Config of the run.
        params: Trained parameters that an average begins with.
    """
    task = get_objective(config)
    of_task = task.initial_extra(config.objective) if isinstance(task, RolloutTask) else {}
    return ema.initial_extra(config.train, params) | of_task


def state_shardings(
    state: State,
    boxed: Any,
    frozen: Any,
    module: Any,
    mesh: Mesh | AbstractMesh,
    rules: parallel.ShardingRules,
) -> State:
    """Return a NamedSharding for each leaf of the abstract state.

    A leaf follows its parameter, is sharded over the batch dimension, or is replicated.

    Args:
        state: Abstract state, unboxed; its `frozen` is not used.
        boxed: Abstract trainable parameters in boxes.
        frozen: Abstract frozen parameters in boxes.
        module: Module, for the batch dimensions of the carry.
        mesh: Mesh of the shardings.
        rules: Rules from logical dim names to mesh axes.

    Returns:
        A State of NamedShardings.

    Raises:
        ConfigError: Where a dim does not divide over the mesh.
    """
    params = parallel.param_shardings(boxed, mesh, rules)
    # Any: the fields of the State are typed as arrays, and hold shardings here.
    replicated = cast(Any, NamedSharding(mesh, PartitionSpec()))

    def carry_sharding(leaf: jax.ShapeDtypeStruct, batch_dim: int) -> NamedSharding:
        names = ["batch" if dim == batch_dim else None for dim in range(leaf.ndim)]
        return NamedSharding(mesh, parallel.spec(names, leaf.shape, mesh, rules, "carry"))

    return State(
        params=params,
        frozen=parallel.param_shardings(frozen, mesh, rules),
        opt_state=opt_state_shardings(state.opt_state, state.params, params, mesh),
        carry=jax.tree.map(carry_sharding, state.carry, carries.batch_dims(module)),
        seed=replicated,
        step=replicated,
        skipped=replicated,
        skipped_in_a_row=replicated,
        # Like optimizer state: an average of the parameters is sharded as they are, a scalar replicated.
        extra=opt_state_shardings(state.extra, state.params, params, mesh),
    )


def _with_sharding(leaf: jax.ShapeDtypeStruct, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
