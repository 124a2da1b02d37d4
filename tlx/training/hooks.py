"""Hooks of the training loop: metrics, evaluations, checkpoints, traces."""

import collections
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax

from tlx.training.clock import Clock
from tlx.training.config import EvalConfig, LogConfig, TrainConfig
from tlx.training.divergence import is_skipped
from tlx.training.journal import Journal
from tlx.training.preemption import Preemption
from tlx.training.progress import Progress, Speed
from tlx.training.state import State
from tlx.training.step import Metrics

# Marks that a speed may be measured from.
_MARKS = 8

# Results of an evaluation that say how much was evaluated: written to the journal, not shown.
_COUNTS = ("targets", "bytes")


class Sink(Protocol):
    """Anything that takes metrics: the journal, the trackers."""

    def metrics(self, step: int, values: Mapping[str, float], kind: str = "train") -> None:
        """Take metrics of a step.

        Args:
            step: steps done.
            values: metrics by name.
            kind: "train", "validation" or "final".
        """
        ...


# Called on every process after an evaluation: step, state and its metrics.
Observer = Callable[[int, State, Mapping[str, float]], None]


class Costs(NamedTuple):
    """Cost of one step, and the peak of the hardware."""

    tokens: int
    """Tokens of a global batch that go through the model."""
    flops: int
    """Model FLOPs of a step: three times the matrix products of the forward pass."""
    peak: float
    """Peak FLOP/s of all devices together."""


class LogHook:
    """Hook that writes each `log.every`-th step's metrics and shows a line every `log.print_every` steps.

    Metrics are read when the devices have gone on to later steps, so that none waits; `finish` reads the
    rest.

    Args:
        log: how often lines are written and shown.
        train: the last step.
        costs: cost of one step, for throughput.
        journal: the run's journal.
        sinks: where metrics go besides the journal.
        progress: what the user sees.
        clock: the run's clock; throughput counts its phases data and step.
    """

    def __init__(
        self,
        log: LogConfig,
        train: TrainConfig,
        costs: Costs,
        journal: Journal,
        sinks: Sequence[Sink],
        progress: Progress,
        clock: Clock,
    ):
        self._log = log
        self._train = train
        self._costs = costs
        self._sinks = (journal, *sinks)
        self._progress = progress
        self._clock = clock
        self._waiting: list[tuple[int, Metrics]] = []
        self._losses: list[float] = []
        # Step and training seconds of the last lines written, and of the last lines shown.
        self._written: collections.deque[tuple[int, float]] = collections.deque(maxlen=_MARKS)
        self._shown: collections.deque[tuple[int, float]] = collections.deque(maxlen=_MARKS)

    def __call__(self, step: int, state: State, metrics: Metrics) -> None:
        """Queue the step's metrics, and write those that the devices are done with."""
        if not self._written:
            # The first step compiles: speed is counted from its end.
            self._written.append((step, self._clock.training()))
            self._shown.append(self._written[0])
        self._progress.advance(step)
        last = step == self._train.steps
        if step % self._log.every == 0 or last:
            self._waiting.append((step, metrics))
        # Two steps later the devices are done with it (loop._AHEAD), so that reading does not wait.
        while self._waiting and (last or self._waiting[0][0] + 2 <= step):
            self._write(*self._waiting.pop(0))

    def finish(self) -> None:
        """Write what is still waiting: before a save and at the end of the loop."""
        while self._waiting:
            self._write(*self._waiting.pop(0))

    def _write(self, step: int, metrics: Metrics) -> None:
        with self._clock("step"):
            # A step's time ends when the devices are done with it, not when it was dispatched.
            jax.block_until_ready(metrics)
        seconds = self._clock.training()
        with self._clock("log"):
            self._tell(step, metrics, seconds)

    def _tell(self, step: int, metrics: Metrics, seconds: float) -> None:
        values = {name: value.item() for name, value in jax.device_get(metrics).items()}
        self._losses.append(values.get("loss", values["total_loss"]))
        speed = self._speed(self._written, step, seconds)
        if speed is not None:
            values["tokens_per_s"] = round(speed.tokens_per_s, 1)
            values["flops_per_s"] = round(speed.flops_per_s)
            values["peak_share"] = round(speed.flops_per_s / speed.peak, 4)
        self._written.append((step, seconds))
        for sink in self._sinks:
            sink.metrics(step, values)
        if step % self._log.print_every == 0 or step == self._train.steps:
            self._show(step, seconds)

    def _show(self, step: int, seconds: float) -> None:
        """Show mean loss and speed since the last line shown."""
        speed = self._speed(self._shown, step, seconds)
        # A skipped step has changed nothing, and one NaN would hide the mean of all others.
        finite = [loss for loss in self._losses if math.isfinite(loss)]
        if speed is not None:
            self._progress.show(step, sum(finite) / max(len(finite), 1), speed)
        # Also where nothing was shown, so that the next line's speed covers its own steps only.
        self._shown.append((step, seconds))
        self._losses.clear()

    def _speed(self, marks: Sequence[tuple[int, float]], step: int, seconds: float) -> Speed | None:
        """Throughput since an earlier step; None where no time has passed.

        Steps in flight end together where the host was busy: so short an interval would be faster than the hardware.
        Then an earlier mark is taken, the earliest where all are.
        """
        speed = None
        for since, began in reversed(marks):
            if step <= since or seconds <= began:
                continue
            per_step = (seconds - began) / (step - since)
            left = (self._train.steps - step) * per_step
            costs = self._costs
            speed = Speed(costs.tokens / per_step, costs.flops / per_step, costs.peak, left)
            if speed.flops_per_s <= speed.peak:
                break
        return speed


def eval_hook(
    config: EvalConfig,
    evaluate: Callable[[State, int | None], Mapping[str, float]],
    log: LogHook,
    sinks: Sequence[Sink],
    progress: Progress,
    clock: Clock,
    observers: Sequence[Observer] = (),
) -> Callable[[int, State, Metrics], None]:
    """Return a hook that evaluates on the validation split every `eval.every` steps.

    Args:
        config: how often, and on how many batches.
        evaluate: returns metrics of a state on so many batches (None: all).
        log: finished before, so that lines stand in the order of their steps.
        sinks: where the metrics go.
        progress: what the user sees.
        clock: counts the phase evaluate.
        observers: called with the metrics, in order.
    """

    def hook(step: int, state: State, metrics: Metrics) -> None:
        if not config.every or step % config.every:
            return
        log.finish()
        with clock("step"):
            # Steps in flight are training, not evaluation.
            jax.block_until_ready(metrics)
        with clock("evaluate"):
            values = evaluate(state, config.batches)
        for sink in sinks:
            sink.metrics(step, values, kind="validation")
        shown = "  ".join(f"{name} {value:.4f}" for name, value in values.items() if name not in _COUNTS)
        progress.say(f"step {step:,}  validation: {shown}")
        with clock("evaluate"):
            for observer in observers:
                observer(step, state, values)

    return hook


class ProfileHook:
    """Hook that records a JAX trace between the ends of the two `train.profile_steps`.

    Steps are counted from this start of the run.

    Args:
        config: the steps, and the last one of the run.
        folder: where the trace is written.
        progress: told where the trace is.
    """

    def __init__(self, config: TrainConfig, folder: str, progress: Progress):
        self._config = config
        self._folder = folder
        self._progress = progress
        self._seen = 0
        self._tracing = False

    def __call__(self, step: int, state: State, metrics: Metrics) -> None:
        """Start or stop the trace, once the devices are done with this step."""
        first, last = self._config.profile_steps
        self._seen += 1
        if self._seen == first:
            jax.block_until_ready(state)
            # Steps before this one are finished, so that the trace holds only those that were asked for.
            jax.profiler.start_trace(self._folder)
            self._tracing = True
        ends = self._seen == last or step == self._config.steps
        if self._tracing and ends:
            jax.block_until_ready(state)
            self.close()
            self._progress.say(f"trace of {self._seen - first} steps up to step {step:,} in {self._folder}")

    def close(self) -> None:
        """Stop the trace where one is being recorded: JAX allows one at a time in a process."""
        if self._tracing:
            self._tracing = False
            jax.profiler.stop_trace()


class CheckpointHook:
    """Hook that saves when the config says so, after the metrics up to that step are written.

    Nothing is saved while steps are being skipped: those saves would push out the ones from before. A save that
    is due then is made after the next step that is not.

    Args:
        checkpoints: the run's Checkpoints.
        log: finished before a save.
        clock: counts the phase checkpoint.
        save: starts to save a step.
        timer: says whether a save by time is due, the same on all processes, and is told of each save.
    """

    def __init__(
        self,
        checkpoints: Any,
        log: LogHook,
        clock: Clock,
        save: Callable[[int, State], None],
        timer: Preemption,
    ):
        self._checkpoints = checkpoints
        self._timer = timer
        self._log = log
        self._clock = clock
        self._save = save
        self._owed = False

    def __call__(self, step: int, state: State, metrics: Metrics) -> None:
        """Start a save where one is due or owed."""
        self._owed = self._owed or self._timer.save_due or self._checkpoints.due(step)
        if not self._owed:
            return
        with self._clock("step"):
            # Steps in flight are training, not the save.
            skipped = is_skipped(metrics)
        if skipped:
            return
        self._owed = False
        # Before the save: a run that resumes here finds the metrics of every step before it in the journal.
        self._log.finish()
        with self._clock("checkpoint"):
            self._save(step, state)
        self._timer.saved()


class LocalSaveHook:
    """Hook that saves to the hosts themselves every checkpoint.local_every steps (checkpoint/local_tier.py).

    A step that was skipped is not saved: the next interval has the same state, and what follows decides.

    Args:
        tier: the run's LocalTier.
        log: finished before a save, so that the journal has the lines of every step that may be resumed from.
        clock: counts the phase checkpoint.
        save: starts to save a step.
    """

    def __init__(self, tier: Any, log: LogHook, clock: Clock, save: Callable[[int, State], None]):
        self._tier = tier
        self._log = log
        self._clock = clock
        self._save = save

    def __call__(self, step: int, state: State, metrics: Metrics) -> None:
        """Start a save where one is due."""
        if not self._tier.due(step):
            return
        with self._clock("step"):
            # Steps in flight are training, not the save.
            skipped = is_skipped(metrics)
        if skipped:
            return
        self._log.finish()
        with self._clock("checkpoint"):
            self._save(step, state)
