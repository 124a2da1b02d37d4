"""The driver of every training: from a checked config to the end of a run that may have begun before."""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from tlx import parallel
from tlx.base import tree
from tlx.base.config import to_dict
from tlx.base.errors import (
    ConfigError,
    LeaseError,
    Preempted,
    StorageError,
)
from tlx.base.files import sha256_json, storage_errors
from tlx.base.memory import freed_memory_kept
from tlx.base.place import BucketPath, Place
from tlx.checkpoint.best import read_best, resolve_step
from tlx.checkpoint.bucket_lease import open_lease
from tlx.checkpoint.checkpoints import Checkpoints
from tlx.checkpoint.lease import Lease
from tlx.checkpoint.local_tier import LocalTier
from tlx.checkpoint.store import check_scheme
from tlx.parallel import consensus
from tlx.run import RunConfig
from tlx.run.assemble import Run, assemble
from tlx.run.checks import check_devices, fit_devices
from tlx.run.config import outside_packages, parse_config
from tlx.run.spec import abstract_batch
from tlx.text import Tokenizer, load_tokenizer
from tlx.trainer.banner import introduce, record, tell_start
from tlx.trainer.evaluations import Evaluations, Evaluator
from tlx.trainer.fatal_errors import errors_noted, explain
from tlx.trainer.process import ProcessServices, process_services
from tlx.trainer.recovery import OPTIONAL, Recovery, restored_state
from tlx.trainer.result import TrainingResult, trained_model
from tlx.trainer.samples import Sampler, check_samples
from tlx.training import directory, ema, hooks
from tlx.training.clock import Clock
from tlx.training.divergence import Diverged, Divergence, Rollbacks, SkipHook, is_skipped
from tlx.training.goodput import Goodput
from tlx.training.improvement import EarlyStop
from tlx.training.journal import Journal, read_lines
from tlx.training.loop import Hook, train
from tlx.training.preflight import check_alike, check_room, preflight
from tlx.training.progress import Progress
from tlx.training.replica_check import BatchSource, ReplicaCheck
from tlx.training.state import State, saved_part
from tlx.training.step import Metrics
from tlx.training.trackers import check_installed, start_trackers

# Assembles a run of a config, with the tokenizer that it was started with (None: a new run).
Build = Callable[[RunConfig, Tokenizer | None], Run]


class TrainerOptions(NamedTuple):
    """Options of a training besides its config."""

    workdir: str | os.PathLike | BucketPath | None = None
    """Run directory; None for runs/NAME."""
    base: str | os.PathLike | BucketPath | None = None
    """Run, checkpoint or Hugging Face directory whose model is trained further; None for fresh parameters."""
    allow_change: Sequence[str] = ()
    """Keys of the config, or groups of them, that may differ when the run is resumed."""
    allow: Sequence[str] = ()
    """Packages outside tlx whose code the saved config of the base, or of a resumed run, may name."""
    profile: bool = False
    """Whether to write a JAX trace of train.profile_steps."""
    step: int | str | None = None
    """Checkpoint that the run goes on from, by number or "best"; None for the newest sound one."""
    ends_process: bool = False
    """Whether a second signal and the watchdog end the process at once, as on the command line."""


class TrainingRequest(NamedTuple):
    """A run to be started or resumed."""

    config: RunConfig
    """The run's config, already validated."""
    workdir: Place
    """Run directory, absolute."""
    options: TrainerOptions
    """allow_change, profile, step and ends_process count here."""


class RunHandles(NamedTuple):
    """Open handles of a run while it trains."""

    workdir: Place
    """Run directory, absolute."""
    journal: Journal
    """metrics.jsonl and events.jsonl; silent on all processes but the first."""
    checkpoints: Checkpoints
    """The run's checkpoints."""
    local: LocalTier
    """Copies of the newest steps on the hosts."""
    lease: Lease
    """Held while the run trains."""
    progress: Progress
    """Progress shown to the user; silent on all processes but the first."""
    clock: Clock
    """Seconds by phase."""


class TrainerCallbacks(NamedTuple):
    """Callbacks in which pretraining and fine-tuning differ."""

    make_evaluator: Callable[[Run], Evaluator]
    """Called on every process, within the mesh."""
    final_evaluation: Callable[[Run, Evaluator, State], Any]
    """Evaluation at the end, where eval.final. Called on every process, within the mesh."""
    final_metrics: Callable[[Any], dict[str, Any]]
    """Metrics to return, of the final evaluation's result. Called on every process."""
    report: Callable[[Run, RunHandles, TrainingResult, Any, float], None]
    """Writes and prints the end of a run, given the final evaluation's result (None without eval.final) and
    the peak FLOP/s at the start. Called on the first process alone, outside the mesh."""
    make_sampler: Callable[[Run], Sampler | None] = lambda run: None
    """Returns what writes log.samples, or None without any. Called on every process, within the mesh."""


def run_training(
    request: TrainingRequest, callbacks: TrainerCallbacks, build: Build = assemble
) -> TrainingResult:
    """Start a run, or resume it from its newest sound checkpoint. Called by all processes.

    Lease, signal handlers and settings of this process are given back on every exit.

    Args:
        request: the config and the run directory.
        callbacks: what pretraining or fine-tuning do.
        build: assembles the run.

    Returns:
        The trained model, sharing the trained arrays, and the final metrics.

    Raises:
        Preempted: the run was asked to stop and has saved; the next call resumes it.
        UserError: one of its subclasses for what a user can mend (LeaseError, StorageError, NumericsError,
            DeviceMemoryError ...); it also stands in events.jsonl.
    """
    config = fit_devices(request.config, jax.device_count())
    request = request._replace(config=config)
    if config.eval.params == ema.NAME:
        callbacks = _on_average(callbacks)
    check_scheme(request.workdir)
    if request.options.profile and isinstance(request.workdir, BucketPath):
        raise ConfigError(f"a profile is written to a folder of this machine, not to {request.workdir}")
    check_samples(config)
    check_devices(config, jax.device_count())
    _check_trackers(config)
    saved = _saved_run(request)
    hosts = preflight(request.workdir, sha256_json(to_dict(config)), directory.versions())
    run: Run | None = None
    with contextlib.ExitStack() as stack:
        if jax.default_backend() == "cpu":
            stack.enter_context(freed_memory_kept())
        stack.enter_context(errors_noted(request.workdir))
        try:
            stack.enter_context(storage_errors())
            lease = stack.enter_context(open_lease(request.workdir))
            journal = Journal(request.workdir, jax.process_index() > 0)
            stack.callback(journal.flush)
            services = stack.enter_context(
                process_services(
                    config.train.stall_seconds,
                    request.options.ends_process,
                    lambda stall: journal.event("stall", what=stall),
                )
            )
            goodput = stack.enter_context(Goodput(services.clock, journal, hosts, lambda: lease.lost))
            run = _assemble(request, build, saved, services.clock, hosts)
            return _train(request, callbacks, run, saved, lease, services, goodput, hosts)
        except jax.errors.JaxRuntimeError as error:
            explain(error, run)
            raise


def _on_average(callbacks: TrainerCallbacks) -> TrainerCallbacks:
    """Return callbacks that evaluate, and sample from, the moving average of the parameters."""

    def make_sampler(run: Run) -> Sampler | None:
        sampler = callbacks.make_sampler(run)
        return None if sampler is None else ema.on_average(sampler)

    def final_evaluation(run: Run, evaluator: Evaluator, state: State) -> Any:
        return callbacks.final_evaluation(run, evaluator, ema.averaged(state))

    return callbacks._replace(
        make_evaluator=lambda run: ema.on_average(callbacks.make_evaluator(run)),
        final_evaluation=final_evaluation,
        make_sampler=make_sampler,
    )


def _check_trackers(config: RunConfig) -> None:
    """Raise ConfigError on all processes where process 0, the only one that tracks, lacks a tracker's package."""
    problem: ConfigError | None = None
    if jax.process_index() == 0:
        try:
            check_installed(config.log)
        except ConfigError as error:
            problem = error
    if consensus.broadcast_from_first(int(problem is not None)):
        raise problem or ConfigError("process 0 lacks the package of a tracker that log asks for")


def _saved_run(request: TrainingRequest) -> dict[str, Any] | None:
    """run.json of a run that has begun, checked against the config; None of one that has not."""
    saved = directory.read_run(request.workdir)
    if saved is not None:
        # run.json may be foreign: it may name the code that the user's own config names, and no other.
        allow = (*request.options.allow, *outside_packages(request.config))
        # Parsed, so that keys which older versions did not know have their defaults.
        saved["config"] = to_dict(parse_config(saved["config"], allow))
        changes = directory.changes(saved["config"], to_dict(request.config), request.options.allow_change)
        directory.check_changes(changes, request.workdir)
    return saved


def _assemble(
    request: TrainingRequest, build: Build, saved: dict[str, Any] | None, clock: Clock, hosts: Sequence[str]
) -> Run:
    """The run's parts; a resumed one keeps its tokenizer, and its data must be what they were, on all hosts."""
    config = request.config
    with clock("prepare"):
        if saved is None:
            run = build(config, None)
            check_alike(hosts, _data_hashes(run))
        else:
            same = saved["config"]["tokenizer"] == to_dict(config)["tokenizer"]
            run = build(config, load_tokenizer(request.workdir / "tokenizer") if same else None)
            # Before the comparison with the saved ones, which could fail on one host alone.
            check_alike(hosts, _data_hashes(run))
            _check_data(run, saved, request)
    check_room(request.workdir, tree.num_bytes(saved_part(run.state)))
    return run


def _data_hashes(run: Run) -> dict[str, str]:
    """Hashes that must be equal on all processes."""
    return {"data": run.train.fingerprint, "tokenizer": run.tokenizer.hash}


def _check_data(run: Run, saved: dict[str, Any], request: TrainingRequest) -> None:
    """Raise ConfigError where tokenizer or data are not those that the run was started with."""
    now = {"tokenizer_hash": run.tokenizer.hash, "data": {"fingerprint": run.train.fingerprint}}
    before = {
        "tokenizer_hash": saved["tokenizer_hash"],
        "data": {"fingerprint": saved["data"]["fingerprint"]},
    }
    changes = directory.changes(before, now, request.options.allow_change)
    directory.check_changes(changes, request.workdir)


def _train(
    request: TrainingRequest,
    callbacks: TrainerCallbacks,
    run: Run,
    saved: dict[str, Any] | None,
    lease: Lease,
    services: ProcessServices,
    goodput: Goodput,
    hosts: Sequence[str],
) -> TrainingResult:
    """Train an assembled run to its end, evaluate and report."""
    config = request.config
    clock = services.clock
    is_first = jax.process_index() == 0
    with run.use(), services.watchdog, _open_handles(run, lease, clock, saved) as handles:
        sampler = callbacks.make_sampler(run)
        state, rollbacks, source = _first_state(run, handles, saved, request.options.step)
        begin = int(jax.device_get(state.step))
        goodput.begin(begin, config.log.every)
        recovery = Recovery(run, handles.checkpoints, handles.journal, handles.progress, rollbacks)
        if is_first:
            record(run, handles.workdir, handles.checkpoints)
        handles.journal.resume(begin)
        costs = introduce(run, handles.workdir, handles.progress.say)
        allow_change = request.options.allow_change
        tell_start(run, handles.journal, handles.progress.say, begin, source, saved, allow_change)
        if begin < config.train.steps:
            handles.progress.say(
                "compiling  the train step: seconds for a small model, minutes for a large one"
            )
        replica_check = _replica_check(run, hosts, recovery) if len(hosts) > 1 else None
        # The same command would go back to that step, and set aside those that were trained since.
        rerun = "rerun" if request.options.step is None else "rerun without --step"
        at_end = _FinalEvaluation(run, handles, services, rerun)
        evaluated = run._replace(to_devices=at_end.to_devices)
        evaluator = callbacks.make_evaluator(evaluated)
        parts = _LoopParts(
            costs,
            evaluator,
            sampler,
            replica_check,
            recovery,
            goodput,
            request.options.profile and is_first,
            rerun,
        )
        with _Loop(run, handles, services, parts) as loop:
            state = loop.run(state, begin)
        final = None
        if config.eval.final:
            at_end.active = True
            with clock("evaluate"):
                final = callbacks.final_evaluation(evaluated, evaluator, state)
        model = trained_model(run, state, handles.workdir)
        del state  # the optimizer's part of it is freed here
    metrics = _last_metrics(handles.workdir) if final is None else callbacks.final_metrics(final)
    result = TrainingResult(model, metrics, handles.workdir)
    if is_first:  # outside the mesh: what follows is one process' own
        callbacks.report(run, handles, result, final, costs.peak)
        handles.journal.event("end", step=result.model.step, seconds=clock.seconds)
        handles.journal.flush()
    return result


@contextlib.contextmanager
def _open_handles(
    run: Run, lease: Lease, clock: Clock, saved: Mapping[str, Any] | None
) -> Iterator[RunHandles]:
    """Open the run's journal, checkpoints and progress."""
    silent = jax.process_index() > 0
    journal = Journal(lease.folder, silent)

    def guard() -> None:
        # What a checkpoint is resumed with stands before it: the lines of the steps that it holds.
        journal.flush()
        lease.check()

    checkpoints = Checkpoints(
        lease.folder / "checkpoints",
        run.config.checkpoint,
        guard=guard,
        on_event=journal.event,
        run_id=None if saved is None else saved.get("id"),
        starts=() if saved is None else saved.get("starts", ()),
    )
    local = LocalTier(run.config.checkpoint, saved_part(run.state), journal.event)
    progress = Progress(run.config.train.steps, silent=silent)
    with checkpoints, local, contextlib.closing(progress):
        checkpoints.prepare()
        try:
            yield RunHandles(lease.folder, journal, checkpoints, local, lease, progress, clock)
        finally:
            journal.flush()


def _first_state(
    run: Run, handles: RunHandles, saved: Mapping[str, Any] | None, step: int | str | None
) -> tuple[State, Rollbacks, str]:
    """The state of the newest sound checkpoint, or the initial one where there never was one; rollbacks; its source.

    `step` names another checkpoint: later ones are set aside, for the run trains their steps anew. Without it, copies
    on the hosts that are no older come first.
    """
    checkpoints = handles.checkpoints
    loaded = None
    source = ""
    with handles.clock("restore"):
        step = resolve_step(checkpoints.folder, step)
        if step is None and saved is not None and "id" in saved:
            loaded = handles.local.restore(saved["id"], saved.get("starts", ()), checkpoints.latest)
        if loaded is not None:
            source = f"the hosts' copies of step {loaded.step} (checkpoint.local_every)"
        else:
            loaded = checkpoints.restore(saved_part(run.state), step, optional=OPTIONAL)
        if loaded is not None and step is not None:
            checkpoints.set_aside_after(step, f"the run was started again from step {step}")
        begin = 0 if loaded is None else loaded.step
        handles.local.begin(checkpoints.run_id, checkpoints.starts[-1], begin)
        if loaded is not None:
            source = source or f"checkpoints/{loaded.step}"
            return restored_state(run, loaded.tree, run.frozen()), Rollbacks.from_json(loaded.extra), source
    with handles.clock("compile"):
        return run.init(), Rollbacks(), source


def _replica_check(run: Run, hosts: Sequence[str], recovery: Recovery) -> ReplicaCheck:
    """Return the check that several processes hold equal state, data and config."""
    config = run.config

    def build(batch: int, rows: Sequence[int]) -> dict[str, Any]:
        return run.train.batch(batch + recovery.rollbacks.left_out, rows)

    shardings = parallel.batch_sharding(run.mesh, run.rules, abstract_batch(config, run.spec))
    sharding = next(iter(shardings.values()))
    return ReplicaCheck(
        config.train.compare_every,
        run.mesh,
        saved_part(run.state),
        {"config": sha256_json(to_dict(config)), "data": run.train.fingerprint + run.tokenizer.hash},
        BatchSource(parallel.rows_by_process(sharding, config.train.batch_size), build),
        hosts,
    )


def _last_metrics(workdir: Place) -> dict[str, Any]:
    """The metrics of the last step that were written; empty without any."""
    lines = [line for line in read_lines(workdir / "metrics.jsonl") if line["kind"] == "train"]
    if not lines:
        return {}
    return {name: value for name, value in lines[-1].items() if name not in ("step", "kind")}


class _FinalEvaluation:
    """Stops the evaluation at the end between two batches, once all processes agree to; every step is saved then."""

    def __init__(self, run: Run, handles: RunHandles, services: ProcessServices, rerun: str):
        self.active = False
        self._rerun = rerun
        self._run = run
        self._handles = handles
        self._preemption = services.preemption

    def to_devices(self, local: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """Put a batch onto the devices, as run.to_devices does; raises Preempted while the final evaluation lasts."""
        if self.active and self._preemption.agreed():
            step = self._handles.checkpoints.latest
            self._handles.progress.close()
            self._handles.journal.event(
                "preempt", step=step, why=self._preemption.why, during="final evaluation"
            )
            raise Preempted(
                f"preempted in the final evaluation, step {step} is saved, {self._rerun} to evaluate"
            )
        return self._run.to_devices(local)


class _LoopParts(NamedTuple):
    """Parts of the loop's hooks, besides the run and its handles."""

    costs: hooks.Costs
    """Cost of a step."""
    evaluator: Evaluator
    """Evaluates a state."""
    sampler: Sampler | None
    """Writes samples of a state; None: there are none."""
    replica_check: ReplicaCheck | None
    """Compares the processes; None for a single one."""
    recovery: Recovery
    """Rollbacks of the run."""
    goodput: Goodput
    """Writes where the time goes."""
    profile: bool
    """Whether this process writes a trace."""
    rerun: str
    """How to start again after a request to stop."""


class _Loop:
    """The training loop of a run with its hooks; a context that closes trackers and profile on every exit."""

    def __init__(self, run: Run, handles: RunHandles, services: ProcessServices, parts: _LoopParts):
        self._run = run
        self._handles = handles
        self._services = services
        self._parts = parts
        self._replica_check = parts.replica_check
        self._recovery = parts.recovery
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "_Loop":
        config = self._run.config
        handles = self._handles
        self._trackers = []
        if jax.process_index() == 0:
            trackers = start_trackers(config.log, handles.workdir, config.name, to_dict(config))
            self._stack.callback(trackers.close)
            self._trackers.append(trackers)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(self, state: State, begin: int) -> State:
        """Train from step `begin` to the last one, or until training stops early, and save the state.

        A run that diverges goes back to the last good checkpoint, as often as train.max_rollbacks allows.
        """
        state, last, divergence = self._train(state, begin)
        while divergence is not None:
            with self._handles.clock("checkpoint"):
                begin = self._recovery.choose(divergence, state)
                frozen = state.frozen
                del state  # the devices need not hold two
                with self._handles.clock("restore"):
                    begin, state = self._recovery.roll_back(divergence, begin, frozen)
                    self._handles.local.go_back(begin)
            state, last, divergence = self._train(state, begin)
        self._tell_end(last)
        self._handles.progress.close()
        self._stack.close()
        with self._handles.clock("checkpoint"):
            if not self._save(last, state):
                raise StorageError(
                    f"step {last}, the last, could not be saved to "
                    f"{self._handles.checkpoints.folder} (the reason is in events.jsonl); once there is "
                    "room, the same command resumes from the newest one"
                )
            self._handles.local.finish()
        self._tell_best()
        return state

    def _train(self, state: State, begin: int) -> tuple[State, int, Divergence | None]:
        """Train from step `begin` on; returns the state, its step, and why it is not the last one, if it is not."""
        self._prepare()
        divergence = None
        with self._handles.clock("evaluate"):
            self._evaluations.resume(state, begin)
        last = begin if self._evaluations.stopped else self._run.config.train.steps
        steps = range(begin + 1, last + 1)
        called = self._hooks()
        first_batch = begin + self._recovery.rollbacks.left_out
        rows: Any = self._run.train.iterate(first_batch, self._run.local_row_indices)
        # What no inner phase counts: comparisons of replicas, profiles.
        with contextlib.closing(rows), self._handles.clock("hooks"):
            local_batches = rows if self._replica_check is None else map(self._replica_check.see, rows)
            batches = map(self._run.to_devices, local_batches)
            try:
                state = train(self._run.step, state, batches, steps, called, self._handles.clock)
                self._skips.finish(state)
            except EarlyStop as stop:
                state = jax.block_until_ready(stop.state)
                last = stop.step
            except Diverged as error:
                state = error.state
                divergence = error.divergence
        self._log.finish()
        if self._replica_check is not None:
            self._replica_check.finish()
        return state, last, divergence

    def _prepare(self) -> None:
        """Make the hooks that follow the steps: after a rollback these come again."""
        config = self._run.config
        handles = self._handles
        self._skips = SkipHook(config.train, handles.journal, handles.progress)
        self._log = hooks.LogHook(
            config.log,
            config.train,
            self._parts.costs,
            handles.journal,
            self._trackers,
            handles.progress,
            handles.clock,
        )
        self._evaluations = Evaluations(
            config,
            handles.journal,
            handles.checkpoints,
            self._parts.evaluator,
            self._parts.sampler,
            (handles.journal, *self._trackers),
        )

    def _tell_end(self, last: int) -> None:
        """Say why training stopped early, where it did."""
        evaluations = self._evaluations
        if evaluations.stopped:
            self._handles.journal.event("early_stop", step=last, why=evaluations.reason)
            self._handles.progress.say(f"stopped early at step {last:,}: {evaluations.reason}")

    def _tell_best(self) -> None:
        """Say which step is the best, where it is kept. Called once all saves are done: a save may have failed."""
        if jax.process_index() > 0 or not self._run.config.checkpoint.keep_best:
            return
        best = read_best(self._handles.checkpoints.folder)
        if best is not None:
            self._handles.progress.say(
                f"best: step {best.step:,}, validation {best.metric} {best.value:.4f}; --step=best loads it"
            )

    def _hooks(self) -> list[Hook]:
        """The hooks in the order in which they are called.

        The watchdog first: a later hook may block. The log before the evaluation and the save, whose metrics
        stand behind those of the steps before. The stop hook after the save, which it would repeat.
        """
        config = self._run.config
        handles = self._handles
        called: list[Hook] = [self._services.watchdog]
        if self._replica_check is not None:
            called.append(self._replica_check)
        called.append(self._skips)
        called.append(self._log)
        called.append(
            hooks.eval_hook(
                config.eval,
                self._parts.evaluator,
                self._log,
                (handles.journal, *self._trackers),
                handles.progress,
                handles.clock,
                [self._evaluations.observe],
            )
        )
        timer = self._services.preemption
        timer.start_save_timer(config.checkpoint.minutes)
        called.append(
            hooks.CheckpointHook(handles.checkpoints, self._log, handles.clock, self._start_save, timer)
        )
        if handles.local.every:
            called.append(hooks.LocalSaveHook(handles.local, self._log, handles.clock, self._save_to_hosts))
        called.append(self._parts.goodput)
        called.append(self._stop_hook)
        called.append(self._evaluations.stop_hook)
        if self._parts.profile:
            profile = hooks.ProfileHook(config.train, str(handles.workdir / "profile"), handles.progress)
            self._stack.callback(profile.close)
            called.append(profile)
        return called

    def _stop_hook(self, step: int, state: State, metrics: Metrics) -> None:
        """Leave the loop when all processes agree to, with a checkpoint; or when the lease is lost."""
        handles = self._handles
        preemption = self._services.preemption
        if handles.lease.lost:
            raise LeaseError(f"another run has taken {handles.workdir} over; this one stops at step {step}")
        # A streak of skipped steps is waited for: it ends with a step worth saving, or with a rollback.
        if not preemption.agreed() or is_skipped(metrics):
            return
        # Steps that were skipped just before are told, or were one too many.
        self._skips.finish(state)
        with handles.clock("checkpoint"):
            self._log.finish()
            self._save(step, state)
        handles.progress.close()
        if handles.checkpoints.latest != step:
            raise StorageError(f"stopped at step {step}, but could not save it; an older checkpoint stands")
        handles.journal.event("preempt", step=step, why=preemption.why)
        raise Preempted(f"preempted at step {step}, saved, {self._parts.rerun} to resume")

    def _start_save(self, step: int, state: State) -> None:
        """Start to save the state, once the processes agree on it."""
        if self._replica_check is not None:
            self._replica_check.confirm(step, state)
        self._handles.checkpoints.save(step, saved_part(state), self._recovery.rollbacks.to_json())

    def _save_to_hosts(self, step: int, state: State) -> None:
        """Start to save the state to the hosts, with the lines of the journal up to it where they last."""
        self._handles.journal.flush()
        self._handles.local.save(step, saved_part(state), self._recovery.rollbacks.to_json())

    def _save(self, step: int, state: State) -> bool:
        """Save the state and wait for it; returns whether it is saved."""
        self._start_save(step, state)
        return self._handles.checkpoints.wait()
