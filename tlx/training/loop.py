"""The training loop: take a batch, make a step, tell the hooks."""

import collections
from collections.abc import Iterator, Sequence
from typing import Protocol

import jax

from tlx.training.clock import Clock
from tlx.training.state import State
from tlx.training.step import Batch, Metrics, StepFn

# Steps the host may be ahead of the devices: they never wait for it, and batches do not pile up.
_AHEAD = 2


class Hook(Protocol):
    """Called after every step, in order. `state` is valid until the next step, `metrics` for ever.

    Neither is computed yet: to look at a value is to wait for it.
    """

    def __call__(self, step: int, state: State, metrics: Metrics) -> None: ...


def train(
    step_fn: StepFn,
    state: State,
    batches: Iterator[Batch],
    steps: range,
    hooks: Sequence[Hook] = (),
    clock: Clock | None = None,
) -> State:
    """The state after the steps with these numbers; step n trains on batch n - 1."""
    clock = clock or Clock()
    running: collections.deque[Metrics] = collections.deque()
    for step in steps:
        with clock("data"):
            batch = next(batches)
        first = step == steps[0]
        with clock("compile" if first else "step"):
            state, metrics = step_fn(state, batch)
            running.append(metrics)
            while len(running) > (0 if first else _AHEAD):
                jax.block_until_ready(running.popleft())
        for hook in hooks:
            hook(step, state, metrics)
    with clock("step"):
        return jax.block_until_ready(state)
