"""Runs that differ in their seed alone, in one program: their states stacked, their step under a vmap.

Each run has parameters, batches, random keys and counters of its own, so that a step which is not finite is
skipped by that run alone. What steps read and never write, a base under LoRA, is there once.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from tlx.training.state import State
from tlx.training.step import Batch, Metrics, StepFn


class Together(NamedTuple):
    """The states of some runs, and what is done with them. Of a single run: `alone`."""

    state: State  # leaves [runs, ...], but for those frozen ones that all runs have alike
    step: Callable[[State, tuple[Batch, ...]], tuple[State, list[Metrics]]]  # a batch and metrics for each
    view: Callable[[State, int], State]  # one run's state, laid out as it is alone; valid until the next step


def alone(state: State, step: StepFn) -> Together:
    """One run as it is: nothing is stacked or copied."""

    def only(state: State, batches: tuple[Batch, ...]) -> tuple[State, list[Metrics]]:
        state, metrics = step(state, batches[0])
        return state, [metrics]

    return Together(state, only, lambda state, place: state)


def together(states: Iterable[State], count: int, like: State, step: StepFn) -> Together:
    """`count` states, taken one by one, each laid out as `like`, whose leaves are shapes with shardings."""
    like = like._replace(frozen={})
    one = jax.tree.map(lambda leaf: leaf.sharding, like)
    layout = jax.tree.map(lambda own: NamedSharding(own.mesh, PartitionSpec(None, *own.spec)), one)

    def zeros() -> State:
        return jax.tree.map(lambda leaf: jnp.zeros((count, *leaf.shape), leaf.dtype), like)

    def put(stacked: State, state: State, place: int) -> State:
        return jax.tree.map(lambda leaf, own: leaf.at[place].set(own), stacked, state)

    def take(stacked: State, place: int) -> State:
        return jax.tree.map(lambda leaf: leaf[place], stacked)

    stacked, frozen = jax.jit(zeros, out_shardings=layout)(), []
    put = jax.jit(put, donate_argnums=0, out_shardings=layout)
    for place, state in enumerate(states):
        stacked = put(stacked, state._replace(frozen={}), place)
        frozen.append(jax.tree.map(_once, frozen[0], state.frozen) if frozen else state.frozen)
    shared = jax.tree.map(lambda *leaves: all(leaf is leaves[0] for leaf in leaves), *frozen)
    kept = jax.tree.map(lambda alike, *leaves: leaves[0] if alike else jnp.stack(leaves), shared, *frozen)
    layout = layout._replace(frozen=jax.tree.map(lambda leaf: leaf.sharding, kept))
    take = jax.jit(take, out_shardings=one)

    def view(state: State, place: int) -> State:
        own = jax.tree.map(lambda alike, leaf: leaf if alike else leaf[place], shared, state.frozen)
        return take(state._replace(frozen={}), place)._replace(frozen=own)

    return Together(stacked._replace(frozen=kept), _batched(step, count, shared, layout), view)


def _once(first: jax.Array, other: jax.Array) -> jax.Array:
    """`first` itself where both are equal, so that the other's memory is given back."""
    return first if bool(jnp.array_equal(first, other)) else other


def _batched(step: StepFn, count: int, shared: Any, layout: State) -> Callable[..., Any]:
    """The step of all runs, jitted; it takes the memory of the state it is given."""
    axes = State(*(0 for _ in State._fields))
    axes = axes._replace(frozen=jax.tree.map(lambda alike: None if alike else 0, shared))
    every = jax.vmap(step, in_axes=(axes, 0), out_axes=(axes, 0))

    def run(state: State, batches: tuple[Batch, ...]) -> tuple[State, list[Metrics]]:
        rows = jax.tree.map(lambda *leaves: jnp.stack(leaves), *batches)
        state, metrics = every(state, rows)
        return state, [{name: values[place] for name, values in metrics.items()} for place in range(count)]

    return jax.jit(run, donate_argnums=0, out_shardings=(layout, None))
