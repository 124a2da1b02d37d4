"""What happens around the steps: metrics are written and shown, evaluations made, a trace recorded."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax

from tlx.base.errors import NumericsError
from tlx.training.clock import Clock
from tlx.training.config import EvalConfig, LogConfig, TrainConfig
from tlx.training.journal import Journal
from tlx.training.progress import Progress, Speed
from tlx.training.state import State, saved_part
from tlx.training.step import Metrics

# Results of an evaluation that say how much was evaluated: written down, not shown.
_COUNTS = ("targets", "bytes")


class Sink(Protocol):
    """Where metrics go: the journal, the trackers."""

    def metrics(self, step: int, values: Mapping[str, float], kind: str = "train") -> None: ...


class Costs(NamedTuple):
    """What one step is made of, and what the machine could do."""

    tokens: int  # positions that go through the model
    flops: int  # model FLOPs: three times the matrix products of the forward pass
    peak: float  # FLOP/s of all devices


class LogHook:
    """Writes each `log.every`-th step's metrics, shows a line every `log.print_every` steps.

    Metrics are read when the devices have gone on to later steps, so that none waits; `finish` reads the
    rest. Raises NumericsError (exit 76) after `train.max_skipped` non-finite steps in a row.
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
        self._log, self._train, self._costs = log, train, costs
        self._journal, self._sinks, self._progress, self._clock = journal, (journal, *sinks), progress, clock
        self._waiting: list[tuple[int, Metrics, float]] = []
        self._losses: list[float] = []
        self._skipped = 0
        self._written: tuple[int, float] | None = None  # step and training seconds of the last line written
        self._shown: tuple[int, float] | None = None  # and of the last line shown

    def __call__(self, step: int, state: State, metrics: Metrics) -> None:
        if self._written is None:  # the first step compiles: speed is counted from its end
            self._written = self._shown = (step, self._clock.training())
            self._skipped = int(metrics["skipped"]) - int(metrics["skipped_in_a_row"] > 0)
        self._progress.advance(step)
        last = step == self._train.steps
        if step % self._log.every == 0 or last:
            self._waiting.append((step, metrics, self._clock.training()))
        while self._waiting and (last or self._waiting[0][0] + 2 <= step):
            with self._clock("log"):
                self._write(*self._waiting.pop(0))

    def finish(self) -> None:
        """Writes what is still waiting: before a save and at the end of the loop."""
        while self._waiting:
            self._write(*self._waiting.pop(0))

    def _write(self, step: int, metrics: Metrics, seconds: float) -> None:
        values = {name: value.item() for name, value in jax.device_get(metrics).items()}
        self._check(step, values)
        self._losses.append(values.get("loss", values["total_loss"]))
        if (speed := self._speed(self._written, step, seconds)) is not None:
            values["tokens_per_s"] = round(speed.tokens_per_s, 1)
            values["flops_per_s"] = round(speed.flops_per_s)
            values["peak_share"] = round(speed.flops_per_s / speed.peak, 4)
        self._written = (step, seconds)
        for sink in self._sinks:
            sink.metrics(step, values)
        if step % self._log.print_every == 0 or step == self._train.steps:
            self._show(step, seconds)

    def _show(self, step: int, seconds: float) -> None:
        """Mean loss and speed since the last line shown."""
        speed = self._speed(self._shown, step, seconds)
        finite = [loss for loss in self._losses if math.isfinite(loss)]
        if speed is not None:
            self._progress.show(step, sum(finite) / max(len(finite), 1), speed)
        self._shown = (step, seconds)
        self._losses.clear()

    def _speed(self, since: tuple[int, float], step: int, seconds: float) -> Speed | None:
        """Throughput since an earlier step; None where no time has passed."""
        done, passed = step - since[0], seconds - since[1]
        if done <= 0 or passed <= 0:
            return None
        per_step = passed / done
        left = (self._train.steps - step) * per_step
        return Speed(self._costs.tokens / per_step, self._costs.flops / per_step, self._costs.peak, left)

    def _check(self, step: int, values: Mapping[str, float]) -> None:
        new, in_a_row = values["skipped"] - self._skipped, values["skipped_in_a_row"]
        if new > 0:
            self._skipped = values["skipped"]
            self._journal.event("skip", step=step, new=new, total=values["skipped"])
            self._progress.say(f"step {step}: {new} update(s) skipped, loss or gradient was not finite")
        if in_a_row >= self._train.max_skipped:
            self._journal.event("not_finite", step=step, in_a_row=in_a_row)
            raise NumericsError(
                f"the last {in_a_row} steps up to step {step} had no finite loss and gradient, and changed "
                f"nothing (train.max_skipped = {self._train.max_skipped}); lower optimizer.learning_rate, or "
                "look at the data of these steps; the last checkpoint is from before"
            )


def eval_hook(
    config: EvalConfig,
    evaluate: Callable[[State, int | None], Mapping[str, float]],
    log: LogHook,
    sinks: Sequence[Sink],
    progress: Progress,
    clock: Clock,
) -> Callable[[int, State, Metrics], None]:
    """Every `eval.every` steps, means over `eval.batches` batches of the validation split."""

    def hook(step: int, state: State, metrics: Metrics) -> None:
        if not config.every or step % config.every:
            return
        with clock("evaluate"):
            log.finish()  # lines stand in the order of their steps
            values = evaluate(state, config.batches)
        for sink in sinks:
            sink.metrics(step, values, kind="validation")
        shown = "  ".join(f"{name} {value:.4f}" for name, value in values.items() if name not in _COUNTS)
        progress.say(f"step {step:,}  validation: {shown}")

    return hook


def profile_hook(config: TrainConfig, folder: str, progress: Progress) -> Callable[..., None]:
    """Records a JAX trace between the ends of the two `train.profile_steps`, counted from this start."""
    first, last = config.profile_steps
    seen = 0

    def hook(step: int, state: State, metrics: Metrics) -> None:
        nonlocal seen
        seen += 1
        if seen == first:
            jax.block_until_ready(state)
            jax.profiler.start_trace(folder)
        if seen == last or first <= seen < last and step == config.steps:
            jax.block_until_ready(state)
            jax.profiler.stop_trace()
            progress.say(f"trace of {seen - first} steps up to step {step:,} in {folder}")

    return hook


def checkpoint_hook(
    checkpoints: Any, log: LogHook, clock: Clock, view: Callable[[State], State]
) -> Callable[..., None]:
    """Saves when the config says so, after the metrics up to that step are written; `view` of the state."""

    def hook(step: int, state: State, metrics: Metrics) -> None:
        if checkpoints.due(step):
            with clock("checkpoint"):
                log.finish()
                checkpoints.save(step, saved_part(view(state)))

    return hook
