"""Skipped steps: counted at every one of them, and what many in a row lead to.

A step whose loss or gradient is not finite, or whose loss is a spike, changes nothing (training/step.py).
`train.max_skipped` of them in a row end the loop with `Diverged`; the trainer then goes back to the last good
checkpoint and leaves out the batches that were read since. How many were left out so far is a `Rollbacks`, stored
with each checkpoint: the data of every step is a pure function of the seed, the step and that number, and a run that
is killed after a rollback and resumed repeats it.
"""

import collections
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tlx.base import place as places
from tlx.base import tree
from tlx.base.files import write_json
from tlx.base.place import Place
from tlx.optim.leaves import describe
from tlx.training.config import TrainConfig
from tlx.training.journal import Journal
from tlx.training.preemption import LAG
from tlx.training.progress import Progress
from tlx.training.state import State
from tlx.training.step import Metrics, gradients, row_keys

_KEY = "rollbacks"


class Rollbacks(NamedTuple):
    """The rollbacks of a run up to a step."""

    count: int = 0
    """Number of rollbacks."""
    left_out: int = 0
    """Number of batches that were left out: step n trains on batch n - 1 + left_out."""

    def after(self, step: int, good: int) -> "Rollbacks":
        """Return the rollbacks once a run that diverged at `step` goes on from step `good` with unread batches."""
        return Rollbacks(self.count + 1, self.left_out + step - good)

    def to_json(self) -> dict[str, Any]:
        """Return what a checkpoint stores; empty for a run without a rollback."""
        return {_KEY: self._asdict()} if self.count else {}

    @classmethod
    def from_json(cls, extra: Mapping[str, Any]) -> "Rollbacks":
        """Return what `to_json` has stored with a checkpoint."""
        return cls(**extra.get(_KEY, {}))


class Divergence(NamedTuple):
    """Steps in a row that changed nothing."""

    step: int
    """The last of them."""
    in_a_row: int
    """Number of the skipped steps."""

    @property
    def first(self) -> int:
        """The first of them."""
        return self.step - self.in_a_row + 1


class Diverged(Exception):
    """Ends the loop after `train.max_skipped` skipped steps in a row; carries the state, which they left alone."""

    def __init__(self, divergence: Divergence, state: State):
        super().__init__(f"steps {divergence.first} to {divergence.step} were skipped")
        self.divergence = divergence
        self.state = state


class SkipHook:
    """Hook that counts skipped steps in a row, and writes an event for each such streak.

    All processes read the same counts at the same steps. A count is read `LAG` steps later, when it has been
    copied to the host; while steps are being skipped each is waited for, so that the loop ends at the step that
    is one too many.

    Args:
        config: how many skipped steps in a row raise Diverged, and what is skipped.
        journal: gets the events.
        progress: what the user sees.
    """

    def __init__(self, config: TrainConfig, journal: Journal, progress: Progress):
        self._config = config
        self._journal = journal
        self._progress = progress
        self._waiting: collections.deque[tuple[int, jax.Array, jax.Array]] = collections.deque()
        self._in_a_row = 0

    def __call__(self, step: int, state: State, metrics: Metrics) -> None:
        """Queue the step's count, and read those that are there."""
        counts = (metrics["skipped_in_a_row"], metrics["skipped"])
        for count in counts:
            count.copy_to_host_async()
        self._waiting.append((step, *counts))
        while self._waiting and self._waiting[0][0] + (0 if self._in_a_row else LAG) <= step:
            self._read(state, *self._waiting.popleft())

    def finish(self, state: State) -> None:
        """Read the counts that are still waiting, at the end of the loop.

        Args:
            state: train state after the last step.
        """
        while self._waiting:
            self._read(state, *self._waiting.popleft())

    def _read(self, state: State, step: int, in_a_row: jax.Array, total: jax.Array) -> None:
        before = self._in_a_row
        self._in_a_row = int(in_a_row)
        if before and not self._in_a_row:
            self._journal.event("skip", step=step - 1, new=before, total=int(total))
            self._progress.say(f"step {step - 1}: {before} update(s) skipped: {self._config.skip_reason}")
        if self._in_a_row >= self._config.max_skipped:
            self._journal.event("not_finite", step=step, in_a_row=self._in_a_row)
            raise Diverged(Divergence(step, self._in_a_row), state)


def is_skipped(metrics: Metrics) -> bool:
    """Return whether a step was skipped; waits for it."""
    return int(metrics["skipped_in_a_row"]) > 0


def layer_norms(
    module: Any, state: State, batch: Mapping[str, jax.Array], step: jax.Array
) -> dict[str, dict[str, jax.Array]]:
    """Compute the norms of each parameter and of its gradient on a batch, layer by layer where they are stacked.

    Args:
        module: as in training.step.make_step.
        state: train state before the step.
        batch: arrays [B, ...] by name.
        step: int32 []: number of steps before this one, from which random keys follow.

    Returns:
        {"parameter": {path: float32 [] or [layers]}, "gradient": the same}, and the loss as {"loss": {"loss": []}}.
    """
    rows = next(iter(batch.values())).shape[0]
    keys = row_keys(state.seed, step, rows)
    result = gradients(module, state, dict(batch), keys)
    leaves = describe(state.params)

    def norm(path: str, x: jax.Array) -> jax.Array:
        dims = tuple(range(0 if leaves[path].layers is None else 1, x.ndim))
        return jnp.sqrt(jnp.sum(jnp.square(x.astype(jnp.float32)), axis=dims))

    norms = {
        name: {path: norm(path, leaf) for path, leaf in tree.flatten(values).items()}
        for name, values in (("parameter", state.params), ("gradient", result.grads))
    }
    return {"loss": {"loss": result.loss}, **norms}


def write_bundle(
    folder: Place,
    divergence: Divergence,
    facts: Mapping[str, Any],
    rows: Mapping[str, np.ndarray],
    norms: Mapping[str, Mapping[str, Any]] | str,
) -> None:
    """Write what is needed to look at a divergence: bundle.json, and batch.npz with the first skipped batch.

    Args:
        folder: where to; it is made.
        divergence: the skipped steps.
        facts: further values of bundle.json.
        rows: arrays [B, ...] of the first skipped batch by name.
        norms: result of `layer_norms` on it, or why there is none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = dict(rows)
    with places.written_folder(folder) as written:
        np.savez(written / "batch.npz", **arrays)
    if not isinstance(norms, str):
        norms = {kind: {path: _json(x) for path, x in values.items()} for kind, values in norms.items()}
    steps = {"step": divergence.first, "last_step": divergence.step, "in_a_row": divergence.in_a_row}
    write_json(folder / "bundle.json", {**steps, **facts, "norms": norms})


def _json(x: Any) -> Any:
    """An array as JSON can hold it: what is not finite as text, for NaN is no JSON."""
    values = np.asarray(x, np.float64)
    if values.ndim:
        return [_json(value) for value in values]
    return float(values) if np.isfinite(values) else str(float(values))
