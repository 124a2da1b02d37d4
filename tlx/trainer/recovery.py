"""Recovery of a run that diverges: it goes back to the last good checkpoint, or ends with a bundle."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from tlx.base.config import to_dict
from tlx.base.errors import CheckpointError, NumericsError
from tlx.base.files import sha256_json
from tlx.base.place import Place
from tlx.checkpoint import Checkpoints
from tlx.parallel import consensus
from tlx.rollouts.ppo import BETA
from tlx.run.assemble import Run
from tlx.run.program import initial_extra
from tlx.training import ema, spikes
from tlx.training.directory import versions
from tlx.training.divergence import Divergence, Rollbacks, layer_norms, write_bundle
from tlx.training.journal import Journal
from tlx.training.progress import Progress
from tlx.training.state import State, saved_part

# Entries of a checkpoint that a run may start without, where they are asked for since: the window of losses, the
# average, and PPO's adapted coefficient.
OPTIONAL = (f"extra/{spikes.NAME}", f"extra/{ema.NAME}", f"extra/{BETA}")


def restored_state(run: Run, tree: Mapping[str, Any], frozen: Any) -> State:
    """Return the state of a checkpoint's tree.

    Args:
        run: the assembled run.
        tree: what `Checkpoints.restore` has loaded; without those entries of `extra` that are of another config.
        frozen: frozen parameters, which no checkpoint holds.
    """
    state = State(**{**tree, "frozen": frozen})
    initial = functools.partial(initial_extra, run.config)
    return ema.with_initial_extra(initial, state, run.state, has=tree["extra"])


class Recovery:
    """Rollbacks of a run. All processes call every method, in the same order.

    Args:
        run: the assembled run.
        checkpoints: its checkpoints.
        journal: gets the events; its metrics of steps that are trained again are removed.
        progress: what the user sees.
        rollbacks: those of earlier starts.
    """

    def __init__(
        self, run: Run, checkpoints: Checkpoints, journal: Journal, progress: Progress, rollbacks: Rollbacks
    ):
        self.rollbacks = rollbacks
        self._run = run
        self._checkpoints = checkpoints
        self._journal = journal
        self._progress = progress
        self._last: int | None = None

    def choose(self, divergence: Divergence, state: State) -> int:
        """Return the step to go back to.

        It is the newest checkpoint before the skipped steps. Where the run has come no further than to diverge again,
        that one is no good either (the update that ruined it is part of it), and the next older one is taken.

        Args:
            divergence: the skipped steps.
            state: train state after them, for the bundle.

        Raises:
            NumericsError: train.max_rollbacks is spent, or there is no checkpoint (exit 76).
        """
        self._checkpoints.wait()
        saved = [step for step in self._checkpoints.complete_steps() if step < divergence.first]
        if self._last is not None and max(saved, default=0) <= self._last:
            saved = [step for step in saved if step < self._last] or saved
        good = consensus.broadcast_from_first(max(saved, default=-1))
        if good < 0 or self.rollbacks.count >= self._run.config.train.max_rollbacks:
            raise self._give_up(divergence, state, good)
        return good

    def roll_back(self, divergence: Divergence, good: int, frozen: Any) -> tuple[int, State]:
        """Return a checkpoint's step and state; the batches that were read since are left out from here on.

        It is `good`, or the next older one where that has been damaged since it was saved.

        Args:
            divergence: the skipped steps.
            good: from `choose`.
            frozen: frozen parameters of the state, which no checkpoint holds.

        Raises:
            CheckpointError: no step up to `good` can be used (exit 74).
        """
        chosen = good
        loaded = self._checkpoints.restore(saved_part(self._run.state), newest=chosen, optional=OPTIONAL)
        if loaded is None:
            raise CheckpointError(
                f"the run diverged at step {divergence.step}, and its last good checkpoint, step {chosen}, is gone "
                f"from {self._checkpoints.folder}"
            )
        good = loaded.step
        reason = f"the run diverged at step {divergence.step} and went back to step {good}"
        self._checkpoints.set_aside_after(good, reason)
        self._journal.resume(good)
        before = self.rollbacks
        self.rollbacks = before.after(divergence.step, good)
        self._last = good
        first = good + before.left_out
        last = divergence.step - 1 + before.left_out
        self._journal.event("rollback", step=divergence.step, to=good, batches=[first, last])
        unusable = "" if good == chosen else f" (step {chosen} cannot be used: see the line above)"
        self._progress.say(
            f"step {divergence.step}: {divergence.in_a_row} steps in a row were skipped "
            f"({self._run.config.train.skip_reason}); back to "
            f"step {good}{unusable}, batches {first} to {last} are left out (rollback {self.rollbacks.count} of "
            f"{self._run.config.train.max_rollbacks})"
        )
        return good, restored_state(self._run, loaded.tree, frozen)

    def _give_up(self, divergence: Divergence, state: State, good: int) -> NumericsError:
        """Write the bundle, and return the error."""
        config = self._run.config.train
        folder = self._checkpoints.folder.parent / "diverged" / f"step-{divergence.first}"
        bundle = f"{folder} has the batch, and the norms by layer"
        try:
            self._write_bundle(folder, divergence, state, good)
        except OSError as error:
            # The divergence is what ends the run, on all processes, whatever the disk does.
            bundle = f"{folder} could not be written ({error.strerror})"
        last_good = (
            f"the last good checkpoint is step {good}" if good >= 0 else "no checkpoint is from before"
        )
        advice = "Go on with a lower optimizer.learning_rate (--allow-change=optimizer.learning_rate)"
        if good >= 0:
            advice += ", from an older checkpoint with --step=N, or with more train.max_rollbacks"
        return NumericsError(
            f"steps {divergence.first} to {divergence.step} were skipped ({config.skip_reason}; "
            f"train.max_skipped = {config.max_skipped}), after {self.rollbacks.count} of {config.max_rollbacks} "
            f"rollbacks (train.max_rollbacks); {last_good}; {bundle}. {advice}"
        )

    def _write_bundle(self, folder: Place, divergence: Divergence, state: State, good: int) -> None:
        run = self._run
        batch = divergence.first - 1 + self.rollbacks.left_out
        norms: Any
        try:
            replicated = NamedSharding(run.mesh, PartitionSpec())
            compute = jax.jit(layer_norms, static_argnums=0, out_shardings=replicated)
            rows = run.to_devices(run.train.batch(batch, run.local_row_indices))
            norms = jax.device_get(compute(run.module, state, rows, np.int32(divergence.first - 1)))
        except jax.errors.JaxRuntimeError as error:
            # The whole gradient may not fit beside the state where the step has just done.
            norms = f"not computed: {str(error).splitlines()[0]}"
        if jax.process_index() > 0:
            return
        facts = {
            "batch": batch,
            "rows": list(range(run.config.train.batch_size)),
            "last_good_step": good,
            "rollbacks": self.rollbacks._asdict(),
            "seed": run.config.seed,
            "data": run.train.fingerprint,
            "tokenizer": run.tokenizer.hash,
            "config": sha256_json(to_dict(run.config)),
            "versions": versions(),
        }
        write_bundle(folder, divergence, facts, run.train.batch(batch), norms)
