"""Evaluations while a run trains: the best step is kept, samples are written, and training may stop early."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax

from tlx.base.errors import CheckpointError
from tlx.checkpoint import Checkpoints
from tlx.checkpoint.best import BestStep, read_best, remove_best, write_best
from tlx.parallel import consensus
from tlx.run import RunConfig
from tlx.trainer.samples import Sampler
from tlx.training.improvement import EarlyStop, Improvement, check_metric
from tlx.training.journal import Journal
from tlx.training.state import State

# Evaluates a state on so many validation batches (None: all).
Evaluator = Callable[[State, int | None], Mapping[str, float]]


class SampleSink(Protocol):
    """Anything that takes samples: the journal, the trackers."""

    def samples(self, step: int, samples: Sequence[Mapping[str, Any]]) -> None:
        """Take what the model wrote after a step, {"prompt", "text" ...} each."""
        ...


class Evaluations:
    """Follows a run's evaluations: `observe` is an observer of eval_hook, `stop_hook` a hook of the loop.

    All processes call every method in the same order. Process 0 compares the evaluations and tells the others.

    Args:
        config: the run's.
        journal: the run's journal, whose metrics hold the evaluations of earlier starts.
        checkpoints: the run's checkpoints.
        evaluator: evaluates a state.
        sampler: writes samples of a state; None: there are none.
        sinks: where samples go.
    """

    def __init__(
        self,
        config: RunConfig,
        journal: Journal,
        checkpoints: Checkpoints,
        evaluator: Evaluator,
        sampler: Sampler | None,
        sinks: Sequence[SampleSink],
    ):
        self._config = config
        self._journal = journal
        self._checkpoints = checkpoints
        self._evaluator = evaluator
        self._sampler = sampler
        self._sinks = sinks
        self._improvement = Improvement(config.eval)
        self._compares = config.checkpoint.keep_best or config.eval.patience > 0
        self.stopped = False

    @property
    def reason(self) -> str:
        """Why training has stopped."""
        return (
            self._improvement.reason
            or f"process 0 has stopped it (eval.patience = {self._config.eval.patience})"
        )

    @property
    def best(self) -> BestStep | None:
        """The best evaluated step, on process 0."""
        return self._improvement.best if self._config.checkpoint.keep_best else None

    def resume(self, state: State, begin: int) -> None:
        """Take up the evaluations of earlier starts, before the first step.

        The sampler, and an evaluation whose metric is not known yet, are tried once: what is wrong with them is
        told before a step is trained.

        Args:
            state: train state at step `begin`.
            begin: steps done.

        Raises:
            ConfigError: eval.metric is no validation metric of the run, or log.samples cannot be written.
        """
        if jax.process_index() == 0:
            self._replay()
        if self._compares:
            self.stopped = bool(consensus.broadcast_from_first(int(bool(self._improvement.reason))))
            if not consensus.broadcast_from_first(int(self._improvement.known)):
                check_metric(self._config.eval, self._evaluator(state, 1))
        if self._sampler is not None:
            samples = self._sampler(state)
            if begin == 0:
                self._write(0, samples)

    def observe(self, step: int, state: State, values: Mapping[str, float]) -> None:
        """Take an evaluation: mark the best step, and write samples.

        Args:
            step: steps done.
            state: train state after that step.
            values: metrics of its evaluation.
        """
        if self._compares:
            value = values.get(self._config.eval.metric)
            # Skipped steps are not saved: a step that is none of the checkpoints is never the best.
            is_saved = int(state.skipped_in_a_row) == 0
            verdict = self._improvement.see(step, value, is_saved)
            # Both answers of process 0 in one number: one collective.
            answers = consensus.broadcast_from_first(int(verdict.is_best) + 2 * int(verdict.stop))
            self.stopped = bool(answers & 2)
            if answers & 1 and value is not None and self._config.checkpoint.keep_best:
                self._checkpoints.mark_best(BestStep(step, self._config.eval.metric, float(value)))
        if self._sampler is not None:
            self._write(step, self._sampler(state))

    def stop_hook(self, step: int, state: State, metrics: Any) -> None:
        """Raise EarlyStop where the last evaluation has ended the run's patience.

        Args:
            step: steps done.
            state: train state after that step.
            metrics: the step's metrics, not read.
        """
        if self.stopped:
            raise EarlyStop(step, state, self.reason)

    def _replay(self) -> None:
        """Find the best of the steps that are saved, and how long the metric has not improved."""
        folder = self._checkpoints.folder
        saved = self._checkpoints.complete_steps()
        try:
            known = read_best(folder)
        except CheckpointError:
            known = None  # it is written again below, or removed
        if known is not None and known.step not in saved:
            known = None
        if self._compares:
            self._improvement.replay(self._journal.read("metrics.jsonl"), saved)
            best = self.best
            if best is not None and best != known:
                write_best(folder, best)
                known = best
        if known is None:
            # Its step was set aside: by a rollback, by a start from an older step, or because it was damaged.
            remove_best(folder)
        self._checkpoints.set_best(known)

    def _write(self, step: int, samples: Sequence[Mapping[str, Any]]) -> None:
        for sink in self._sinks:
            sink.samples(step, samples)
