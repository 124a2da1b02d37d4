"""The driver of every training: from a checked config to the end of a run that may have begun before."""

import contextlib
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from tlx import parallel
from tlx.base import tree
from tlx.base.config import to_dict
from tlx.base.errors import (
    ConfigError,
    DeviceMemoryError,
    LeaseError,
    LostProcess,
    Preempted,
    StorageError,
    UserError,
)
from tlx.base.files import sha256_json, storage_errors
from tlx.base.memory import freed_memory_kept
from tlx.checkpoint.checkpoints import Checkpoints
from tlx.checkpoint.lease import Lease
from tlx.parallel import consensus
from tlx.run import RunConfig
from tlx.run.assemble import Run, assemble
from tlx.run.checks import check_devices
from tlx.run.config import outside_packages, parse_config
from tlx.run.spec import abstract_batch
from tlx.text import Tokenizer, load_tokenizer
from tlx.trainer.banner import introduce, record, tell_start
from tlx.trainer.evaluations import Evaluations, Evaluator
from tlx.trainer.process import ProcessServices, process_services
from tlx.trainer.result import TrainingResult, trained_model
from tlx.trainer.samples import Sampler, check_samples
from tlx.training import directory, hooks
from tlx.training.clock import Clock
from tlx.training.improvement import EarlyStop
from tlx.training.journal import Journal, read_lines
from tlx.training.loop import Hook, train
from tlx.training.preflight import check_room, preflight
from tlx.training.progress import Progress
from tlx.training.replica_check import BatchSource, ReplicaCheck
from tlx.training.state import State, saved_part
from tlx.training.trackers import check_installed, start_trackers

# Assembles a run of a config, with the tokenizer that it was started with (None: a new run).
Build = Callable[[RunConfig, Tokenizer | None], Run]

# What collectives say when the other side has closed its connection or does not answer.
_LOST = ("Gloo", "Connection", "connection", "UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED", "NCCL", "peer")

_OUT_OF_MEMORY = (
    "the devices have too little memory for this run; raise train.microbatches, set "
    "model.execution.remat = 'full', or split the parameters with mesh.fsdp. What the device said: "
)


class TrainerOptions(NamedTuple):
    """Options of a training besides its config."""

    workdir: str | os.PathLike | None = None
    """Run directory; None for runs/NAME."""
    base: str | os.PathLike | None = None
    """Run, checkpoint or Hugging Face directory whose model is trained further; None for fresh parameters."""
    allow_change: Sequence[str] = ()
    """Keys of the config, or groups of them, that may differ when the run is resumed."""
    allow: Sequence[str] = ()
    """Packages outside tlx whose code the saved config of the base, or of a resumed run, may name."""
    profile: bool = False
    """Whether to write a JAX trace of train.profile_steps."""
    ends_process: bool = False
    """Whether a second signal and the watchdog end the process at once, as on the command line."""


class TrainingRequest(NamedTuple):
    """A run to be started or resumed."""

    config: RunConfig
    """The run's config, already validated."""
    workdir: pathlib.Path
    """Run directory, absolute."""
    options: TrainerOptions
    """allow_change, profile and ends_process count here."""


class RunHandles(NamedTuple):
    """Open handles of a run while it trains."""

    workdir: pathlib.Path
    """Run directory, absolute."""
    journal: Journal
    """metrics.jsonl and events.jsonl; silent on all processes but the first."""
    checkpoints: Checkpoints
    """The run's checkpoints."""
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
    config = request.config
    check_samples(config)
    check_devices(config, jax.device_count())
    _check_trackers(config)
    saved = _saved_run(request)
    hosts = preflight(request.workdir, sha256_json(to_dict(config)), directory.versions())
    with contextlib.ExitStack() as stack:
        if jax.default_backend() == "cpu":
            stack.enter_context(freed_memory_kept())
        stack.enter_context(_errors_noted(request.workdir))
        try:
            stack.enter_context(storage_errors())
            lease = stack.enter_context(Lease(request.workdir))
            services = stack.enter_context(
                process_services(config.train.stall_seconds, request.options.ends_process)
            )
            run = _assemble(request, build, saved, services.clock)
            return _train(request, callbacks, run, saved, lease, services, hosts)
        except jax.errors.JaxRuntimeError as error:
            _explain(error)
            raise


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


@contextlib.contextmanager
def _errors_noted(workdir: pathlib.Path) -> Iterator[None]:
    """Write an error of the run to events.jsonl, for whoever waits for its end elsewhere."""
    try:
        yield
    except UserError as error:
        if not isinstance(error, LeaseError):  # with that one, the run is another process'
            Journal(workdir, jax.process_index() > 0).error(error)
        raise


def _explain(error: Exception) -> None:
    """Raise an error that a user can act on in place of the runtime's own, where there is one."""
    first = (str(error).splitlines() or [""])[0]
    if "RESOURCE_EXHAUSTED" in str(error):
        raise DeviceMemoryError(_OUT_OF_MEMORY + first) from error
    if jax.process_count() > 1 and any(sign in str(error) for sign in _LOST):
        raise LostProcess(f"another process of the run is gone; what the device said: {first}") from error


def _assemble(request: TrainingRequest, build: Build, saved: dict[str, Any] | None, clock: Clock) -> Run:
    """The run's parts; a resumed one keeps its tokenizer, and its data must be what they were."""
    config = request.config
    with clock("prepare"):
        if saved is None:
            run = build(config, None)
        else:
            same = saved["config"]["tokenizer"] == to_dict(config)["tokenizer"]
            run = build(config, load_tokenizer(request.workdir / "tokenizer") if same else None)
            _check_data(run, saved, request)
    check_room(request.workdir, tree.num_bytes(saved_part(run.state)))
    return run


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
    hosts: Sequence[str],
) -> TrainingResult:
    """Train an assembled run to its end, evaluate and report."""
    config = request.config
    clock = services.clock
    is_first = jax.process_index() == 0
    with run.use(), services.watchdog, _open_handles(run, lease, clock, saved) as handles:
        sampler = callbacks.make_sampler(run)
        with clock("compile"):
            state = _first_state(run, handles.checkpoints)
        begin = int(jax.device_get(state.step))
        if is_first:
            record(run, handles.workdir, handles.checkpoints.run_id)
        handles.journal.resume(begin)
        costs = introduce(run, handles.workdir, handles.progress.say)
        tell_start(run, handles.journal, handles.progress.say, begin, saved, request.options.allow_change)
        if begin < config.train.steps:
            handles.progress.say(
                "compiling  the train step: seconds for a small model, minutes for a large one"
            )
        replica_check = _replica_check(run, hosts) if len(hosts) > 1 else None
        evaluator = callbacks.make_evaluator(run)
        profile = request.options.profile and is_first
        with _Loop(run, handles, services, costs, evaluator, sampler, replica_check, profile) as loop:
            state = loop.run(state, begin)
        final = None
        if config.eval.final:
            with clock("evaluate"):
                final = callbacks.final_evaluation(run, evaluator, state)
        model = trained_model(run, state, handles.workdir)
        del state  # the optimizer's part of it is freed here
    metrics = _last_metrics(handles.workdir) if final is None else callbacks.final_metrics(final)
    result = TrainingResult(model, metrics, handles.workdir)
    if is_first:  # outside the mesh: what follows is one process' own
        callbacks.report(run, handles, result, final, costs.peak)
        handles.journal.event("end", step=result.model.step, seconds=clock.seconds)
    return result


@contextlib.contextmanager
def _open_handles(
    run: Run, lease: Lease, clock: Clock, saved: Mapping[str, Any] | None
) -> Iterator[RunHandles]:
    """Open the run's journal, checkpoints and progress."""
    silent = jax.process_index() > 0
    journal = Journal(lease.folder, silent)
    checkpoints = Checkpoints(
        lease.folder / "checkpoints",
        run.config.checkpoint,
        guard=lease.check,
        on_event=journal.event,
        run_id=None if saved is None else saved.get("id"),
    )
    progress = Progress(run.config.train.steps, silent=silent)
    with checkpoints, contextlib.closing(progress):
        checkpoints.prepare()
        yield RunHandles(lease.folder, journal, checkpoints, lease, progress, clock)


def _first_state(run: Run, checkpoints: Checkpoints) -> State:
    """The state of the newest sound checkpoint, or the initial one where there never was a checkpoint."""
    loaded = checkpoints.restore(saved_part(run.state))
    return run.init() if loaded is None else State(**loaded.tree, frozen=run.frozen())


def _replica_check(run: Run, hosts: Sequence[str]) -> ReplicaCheck:
    """Return the check that several processes hold equal state, data and config."""
    config = run.config
    shardings = parallel.batch_sharding(run.mesh, run.rules, abstract_batch(config, run.spec))
    sharding = next(iter(shardings.values()))
    return ReplicaCheck(
        config.train.compare_every,
        run.mesh,
        saved_part(run.state),
        {"config": sha256_json(to_dict(config)), "data": run.train.fingerprint + run.tokenizer.hash},
        BatchSource(parallel.rows_by_process(sharding, config.train.batch_size), run.train.batch),
        hosts,
    )


def _last_metrics(workdir: pathlib.Path) -> dict[str, Any]:
    """The metrics of the last step that were written; empty without any."""
    lines = [line for line in read_lines(workdir / "metrics.jsonl") if line["kind"] == "train"]
    if not lines:
        return {}
    return {name: value for name, value in lines[-1].items() if name not in ("step", "kind")}


class _Loop:
    """The training loop of a run with its hooks; a context that closes trackers and profile on every exit."""

    def __init__(
        self,
        run: Run,
        handles: RunHandles,
        services: ProcessServices,
        costs: hooks.Costs,
        evaluator: Evaluator,
        sampler: Sampler | None,
        replica_check: ReplicaCheck | None,
        profile: bool,
    ):
        self._run = run
        self._handles = handles
        self._services = services
        self._costs = costs
        self._evaluator = evaluator
        self._sampler = sampler
        self._replica_check = replica_check
        self._profile = profile
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "_Loop":
        config = self._run.config
        handles = self._handles
        self._trackers = []
        if jax.process_index() == 0:
            trackers = start_trackers(config.log, handles.workdir, config.name, to_dict(config))
            self._stack.callback(trackers.close)
            self._trackers.append(trackers)
        self._log = hooks.LogHook(
            config.log,
            config.train,
            self._costs,
            handles.journal,
            self._trackers,
            handles.progress,
            handles.clock,
        )
        self._evaluations = Evaluations(
            config,
            handles.journal,
            handles.checkpoints,
            self._evaluator,
            self._sampler,
            (handles.journal, *self._trackers),
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(self, state: State, begin: int) -> State:
        """Train from step `begin` to the last one, or until training stops early, and save the state."""
        config = self._run.config
        called = self._hooks()
        with self._handles.clock("evaluate"):
            self._evaluations.resume(state, begin)
        last = begin if self._evaluations.stopped else config.train.steps
        steps = range(begin + 1, last + 1)
        rows: Any = self._run.train.iterate(begin, self._run.local_row_indices)
        with contextlib.closing(rows):
            local_batches = rows if self._replica_check is None else map(self._replica_check.see, rows)
            batches = map(self._run.to_devices, local_batches)
            try:
                state = train(self._run.step, state, batches, steps, called, self._handles.clock)
            except EarlyStop as stop:
                state = jax.block_until_ready(stop.state)
                last = stop.step
        self._log.finish()
        if self._replica_check is not None:
            self._replica_check.finish()
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
        return state

    def _tell_end(self, last: int) -> None:
        """Say why training stopped early, where it did, and which step is the best, where it is kept."""
        evaluations = self._evaluations
        if evaluations.stopped:
            self._handles.journal.event("early_stop", step=last, why=evaluations.reason)
            self._handles.progress.say(f"stopped early at step {last:,}: {evaluations.reason}")
        best = evaluations.best
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
        called.append(self._log)
        called.append(
            hooks.eval_hook(
                config.eval,
                self._evaluator,
                self._log,
                (handles.journal, *self._trackers),
                handles.progress,
                handles.clock,
                [self._evaluations.observe],
            )
        )
        called.append(hooks.checkpoint_hook(handles.checkpoints, self._log, handles.clock))
        called.append(self._stop_hook)
        called.append(self._evaluations.stop_hook)
        if self._profile:
            profile = hooks.ProfileHook(config.train, str(handles.workdir / "profile"), handles.progress)
            self._stack.callback(profile.close)
            called.append(profile)
        return called

    def _stop_hook(self, step: int, state: State, metrics: Any) -> None:
        """Leave the loop when all processes agree to, with a checkpoint; or when the lease is lost."""
        handles = self._handles
        preemption = self._services.preemption
        if handles.lease.lost:
            raise LeaseError(f"another run has taken {handles.workdir} over; this one stops at step {step}")
        if not preemption.agreed():
            return
        with handles.clock("checkpoint"):
            self._log.finish()
            self._save(step, state)
        handles.progress.close()
        if handles.checkpoints.latest != step:
            raise StorageError(f"stopped at step {step}, but could not save it; an older checkpoint stands")
        handles.journal.event("preempt", step=step, why=preemption.why)
        raise Preempted(f"preempted at step {step}, saved, rerun to resume")

    def _save(self, step: int, state: State) -> bool:
        """Save the state and wait for it; returns whether it is saved."""
        self._handles.checkpoints.save(step, saved_part(state))
        return self._handles.checkpoints.wait()
