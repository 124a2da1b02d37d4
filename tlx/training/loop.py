"""The training loop: take a batch, make a step, call the hooks."""

import collections
import time
from collections.abc import Iterator, Sequence
from typing import Protocol

import jax

from tlx.training.clock import Clock
from tlx.training.state import State
from tlx.training.step import Batch, Metrics, StepFn

# Seconds between looks at the devices of a host's first step.
_LOOK_SECONDS = 0.005

# Steps by which the host may be ahead of the devices: they never wait for it, and batches do not pile up.
_AHEAD = 2


class Hook(Protocol):
    """Called after every step, in order.

    Values are asynchronous; reading one blocks. `state` is valid until the next step, which donates it;
    `metrics` stay valid.
    """

    def __call__(self, step: int, state: State, metrics: Metrics, /) -> None:
        """Take the state and the metrics after a step."""
        ...


def train(
    step_fn: StepFn,
    state: State,
    batches: Iterator[Batch],
    steps: range,
    hooks: Sequence[Hook] = (),
    clock: Clock | None = None,
) -> State:
    """Run the steps with the given numbers; step n trains on batch n - 1.

    Args:
        step_fn: jitted train step, which donates its state.
        state: train state before the first of the steps.
        batches: global batches on the devices, from that of the first step on.
        steps: numbers of the steps; may be empty.
        hooks: called after every step, in order.
        clock: counts the phases data, compile (the first step) and step.

    Returns:
        The train state after the last step, computed.
    """
    clock = clock or Clock()
    running: collections.deque[Metrics] = collections.deque()
    for step in steps:
        with clock("data"):
            # Timed apart: where this phase is long, the input pipeline and not the model is slow.
            batch = next(batches)
        first = step == steps[0]
        with clock("compile" if first else "step"):
            state, metrics = step_fn(state, batch)
            running.append(metrics)
            if first:
                _raise_error_of_any_device(metrics)
            # The first step is waited for, so that compilation does not count as training time.
            while len(running) > (0 if first else _AHEAD):
                jax.block_until_ready(running.popleft())
        # Hooks get arrays that may not be computed yet; each decides whether it waits for one.
        for hook in hooks:
            hook(step, state, metrics)
    with clock("step"):
        return jax.block_until_ready(state)


def _raise_error_of_any_device(metrics: Metrics) -> None:
    """Wait for the first step on several simulated devices; raise the error of the first that has one.

    A CPU device that gets no memory does not enter the collective in which the others then wait, for 40 s until XLA
    aborts the process: to wait for all of them would be to wait for that.
    """
    waiting = [shard.data for value in metrics.values() for shard in value.addressable_shards]
    if jax.default_backend() != "cpu" or jax.local_device_count() == 1:
        return
    while waiting:
        for array in waiting:
            if array.is_ready():
                array.block_until_ready()  # raises the device's error
        waiting = [array for array in waiting if not array.is_ready()]
        if waiting:
            time.sleep(_LOOK_SECONDS)
