"""Evaluations of a run compared: which is the best, and whether training has stopped improving."""

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from tlx.base.errors import ConfigError, one_of
from tlx.checkpoint.best import BestStep
from tlx.training.config import EvalConfig
from tlx.training.state import State

# Beginnings and ends of the names of metrics that are better when they are lower.
_LOWER = ("loss", "perplexity", "bits", "nats", "error", "mse", "mae")


class EarlyStop(Exception):  # noqa: N818 - no error: it leaves the training loop
    """Leaves the training loop after `step`, whose state stands here; the message is the reason."""

    def __init__(self, step: int, state: State, reason: str):
        super().__init__(reason)
        self.step = step
        self.state = state


class Verdict(NamedTuple):
    """Result of comparing an evaluation with those before it."""

    is_best: bool
    """Whether it is better than all before it."""
    stop: bool
    """Whether eval.patience evaluations in a row, with this one, have not improved."""


class Improvement:
    """Follows eval.metric over a run's evaluations.

    `best` is the best evaluation of all. `reason` says why training stops; "" while it does not.

    Args:
        config: which metric, and how patient.
    """

    def __init__(self, config: EvalConfig):
        self._config = config
        self._sign = 1.0 if lower_is_better(config) else -1.0
        self.best: BestStep | None = None
        self.reason = ""
        # What an evaluation has to improve by min_delta, and evaluations since the last that did.
        self._reference = math.inf
        self._reference_step = 0
        self._waited = 0

    def replay(self, lines: Iterable[Mapping[str, Any]], saved_steps: Collection[int]) -> None:
        """Take the evaluations of earlier starts.

        Args:
            lines: metrics.jsonl up to the step from which the run resumes.
            saved_steps: steps with a checkpoint; only they can be the best.
        """
        for line in lines:
            if line["kind"] != "validation":
                continue
            self.see(line["step"], line.get(self._config.metric), line["step"] in saved_steps)

    @property
    def known(self) -> bool:
        """Whether an evaluation has had the metric."""
        return math.isfinite(self._reference)

    def see(self, step: int, value: float | None, is_saved: bool = True) -> Verdict:
        """Take the metric of an evaluation.

        Args:
            step: steps done.
            value: the metric; None, and one that is not finite, is no improvement.
            is_saved: whether the step has a checkpoint, or gets one; only then can it be the best.

        Returns:
            How it compares with those before it.
        """
        patience = self._config.patience
        cost = math.inf
        if value is not None and math.isfinite(value):
            cost = self._sign * value
        is_best = is_saved and cost < (math.inf if self.best is None else self._sign * self.best.value)
        if is_best and value is not None:
            self.best = BestStep(step, self._config.metric, float(value))
        if cost < self._reference - self._config.min_delta:
            self._reference = cost
            self._reference_step = step
            self._waited = 0
            self.reason = ""
        else:
            self._waited += 1
        stop = bool(patience) and self._waited >= patience
        if stop:
            self.reason = self._reason()
        return Verdict(is_best, stop)

    def _reason(self) -> str:
        metric = self._config.metric
        margin = f" by {self._config.min_delta:g}" if self._config.min_delta else ""
        since = "at any evaluation"
        if math.isfinite(self._reference):
            since = f"since step {self._reference_step:,}, where it was {self._sign * self._reference:.4f}"
        return (
            f"validation {metric} has not improved{margin} {since}: {self._waited} evaluations "
            f"(eval.patience = {self._config.patience})"
        )


def lower_is_better(config: EvalConfig) -> bool:
    """Return whether a smaller eval.metric is better, by the config or else by the metric's name."""
    if config.lower_is_better is not None:
        return config.lower_is_better
    name = config.metric.rpartition("/")[2]
    return any(name.startswith(word) or name.endswith(word) for word in _LOWER)


def check_metric(config: EvalConfig, values: Mapping[str, float]) -> None:
    """Raise ConfigError where an evaluation has no metric of the name eval.metric."""
    if config.metric not in values:
        raise ConfigError(one_of("eval.metric", config.metric, values))
