"""The jitted train step of a config on a mesh, with its abstract inputs and outputs."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tlx import parallel
from tlx.adapt.parts import split
from tlx.adapt.rates import adapted_optimizer_config
from tlx.models import parametrization
from tlx.objectives.shared.base import ObjectiveSpec
from tlx.optim import frozen_paths, make_optimizer, make_schedule
from tlx.optim import state_shardings as opt_state_shardings
from tlx.run.config import RunConfig
from tlx.run.spec import abstract_batch, make_module
from tlx.tasks.shared.base import TaskSpec
from tlx.training import carry as carries
from tlx.training.state import State, boxed_params, frozen_params, init_state
from tlx.training.step import StepFn, make_step


class Program(NamedTuple):
    """What runs on the devices: the step, and what goes in and comes out, without an array anywhere."""

    module: Any  # apply({"params": p}, batch, carry, keys) -> (terms, carry)
    mesh: Mesh
    rules: parallel.ShardingRules
    boxed: Any  # abstract parameters with their logical names
    state: State  # abstract, with the sharding of each leaf
    batch: dict[str, jax.ShapeDtypeStruct]  # abstract, with the sharding of each array
    init: Callable[[Any, Any], State]  # of frozen parameters and seed: the first state, without the former
    step: StepFn  # jitted; it takes the memory of the state it is given

    def use(self) -> AbstractContextManager[None]:
        """The context in which init and step are called, traced or lowered: the mesh and its rules."""
        return parallel.use(self.mesh, self.rules)


def program(config: RunConfig, spec: ObjectiveSpec | TaskSpec, mesh: Mesh) -> Program:
    """The very step of a run on a mesh, whose devices may be of a machine that is not here.

    It does not depend on config.seed.
    """
    rules = parallel.rules(config.mesh)
    module, batch = make_module(config, spec.vocab), abstract_batch(config, spec)
    boxed = boxed_params(module, batch)
    apart = partial(split, config.adapt)
    trained, kept = apart(boxed)
    chosen = adapted_optimizer_config(
        config.optimizer, config.adapt, module.model, trained, config.train.steps
    )
    schedule = make_schedule(chosen, config.train.steps)
    rates = parametrization.lr_multipliers(module.model, chosen, trained)
    optimizer = make_optimizer(chosen, schedule, trained, rates)

    def init(frozen: Any, seed: Any) -> State:
        return init_state(module, optimizer, batch, config.train.batch_size, seed, frozen, apart)

    frozen = frozen_params(module) | kept
    state = jax.eval_shape(init, parallel.unbox(frozen), np.uint32(0))
    shardings = state_shardings(state, trained, frozen, module, mesh, rules)
    rows = parallel.batch_sharding(mesh, rules, batch)
    whole = NamedSharding(mesh, PartitionSpec())
    step = make_step(module, optimizer, schedule, config.train, frozen_paths(chosen, trained))
    return Program(
        module=module,
        mesh=mesh,
        rules=rules,
        boxed=boxed,
        state=jax.tree.map(_with_sharding, state._replace(frozen=parallel.unbox(frozen)), shardings),
        batch=jax.tree.map(_with_sharding, batch, rows),
        init=jax.jit(
            init, in_shardings=(shardings.frozen, whole), out_shardings=shardings._replace(frozen={})
        ),
        step=jax.jit(
            step, in_shardings=(shardings, rows), out_shardings=(shardings, whole), donate_argnums=0
        ),
    )


def state_shardings(
    state: State, boxed: Any, frozen: Any, module: Any, mesh: Mesh, rules: parallel.ShardingRules
) -> State:
    """NamedSharding of each leaf of the abstract state: as its parameter, its row of the batch, or whole."""
    params = parallel.param_shardings(boxed, mesh, rules)
    whole = NamedSharding(mesh, PartitionSpec())

    def carried(leaf: jax.ShapeDtypeStruct, batch_dim: int) -> NamedSharding:
        names = ["batch" if dim == batch_dim else None for dim in range(leaf.ndim)]
        return NamedSharding(mesh, parallel.spec(names, leaf.shape, mesh, rules, "carry"))

    return State(
        params=params,
        frozen=parallel.param_shardings(frozen, mesh, rules),
        opt_state=opt_state_shardings(state.opt_state, state.params, params, mesh),
        carry=jax.tree.map(carried, state.carry, carries.batch_dims(module)),
        seed=whole,
        step=whole,
        skipped=whole,
        skipped_in_a_row=whole,
    )


def _with_sharding(leaf: jax.ShapeDtypeStruct, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
