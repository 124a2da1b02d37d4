"""What all verbs that train share: from a checked config to the end of a run that may have begun before.

Several runs that differ in their seed alone can be made in one program; one run is the usual case of that.
"""

import argparse
import contextlib
import dataclasses
import logging
import os
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from tlx import parallel
from tlx.base import tree
from tlx.base.config import to_dict
from tlx.base.errors import DeviceMemoryError, LeaseError, LostProcess, Preempted, StorageError, UserError
from tlx.base.files import sha256_json
from tlx.base.memory import keep_freed_memory
from tlx.checkpoint.checkpoints import Checkpoints
from tlx.checkpoint.lease import Lease
from tlx.run import RunConfig
from tlx.run.assemble import Run, assemble
from tlx.run.checks import check_devices
from tlx.run.config import parse_config
from tlx.run.spec import abstract_batch
from tlx.text import Tokenizer, load_tokenizer
from tlx.trainer.banner import introduce, record, tell_start
from tlx.training import directory, hooks
from tlx.training.clock import Clock
from tlx.training.journal import Journal
from tlx.training.loop import train
from tlx.training.preemption import Preemption
from tlx.training.preflight import check_room, preflight
from tlx.training.progress import Progress
from tlx.training.replica_check import BatchSource, ReplicaCheck
from tlx.training.state import State
from tlx.training.together import Together, alone, together
from tlx.training.trackers import Trackers, start_trackers
from tlx.training.watchdog import Watchdog

# A run of a config, with the tokenizer that it was started with.
Build = Callable[[RunConfig, Tokenizer | None], Run]
Evaluator = Callable[[State, int | None], Mapping[str, float]]


class Job(NamedTuple):
    """A run to be carried out."""

    config: RunConfig  # checked
    workdir: pathlib.Path
    step: int | None = None  # of the checkpoint that it goes on from; None: the newest, or the beginning


class Room(NamedTuple):
    """What watches all runs of a program while they train."""

    preemption: Preemption
    clock: Clock
    watchdog: Watchdog


class Desk(NamedTuple):
    """What keeps one run while it trains."""

    workdir: pathlib.Path
    journal: Journal
    checkpoints: Checkpoints
    lease: Lease
    progress: Progress
    clock: Clock  # the room's


class Verb(NamedTuple):
    """What differs between the verbs.

    evaluator(run) gives evaluate(state, number of batches or None). final(run, evaluate, state) is what is
    computed at the end, where eval.final. Both are called on every process, in the mesh; end(run, desk,
    final's result or None, peak, words) on one, outside it: it writes and says what came of the run. `words`
    are those that gave the config.
    """

    evaluator: Callable[[Run], Evaluator]
    final: Callable[[Run, Evaluator, State], Any]
    end: Callable[[Run, Desk, Any, float, Sequence[str]], None]


def begin() -> None:
    """Joins the processes of the run; before anything else touches a device."""
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    parallel.start_process()
    if jax.default_backend() == "cpu":
        keep_freed_memory()


def job(config: RunConfig, options: argparse.Namespace, workdir: str | os.PathLike | None = None) -> Job:
    """The run of a checked config in `workdir`, which is by default as the flags or the config's name say."""
    config = dataclasses.replace(config, name=config.name or options.config_name)
    folder = pathlib.Path(workdir or options.workdir or f"runs/{config.name}")
    return Job(config, folder.absolute())


def carry_out(verb: Verb, jobs: Sequence[Job], options: argparse.Namespace, build: Build = assemble) -> None:
    """Runs from their beginning or from where they were left. Several, in one program, must differ in their
    seed alone and stand at the same step; there is one process then."""
    first = jobs[0]
    check_devices(first.config, jax.device_count())
    started = [_started(each, options.allow_change) for each in jobs]
    hosts = preflight(first.workdir, sha256_json(to_dict(first.config)), directory.versions())
    with contextlib.ExitStack() as stack:
        for each in jobs:
            stack.enter_context(_noted(each.workdir))
        try:
            leases = [stack.enter_context(Lease(each.workdir)) for each in jobs]
            preemption = stack.enter_context(Preemption(grace_seconds=_grace()))
            _train(verb, jobs, build, started, options, leases, preemption, hosts)
        except jax.errors.JaxRuntimeError as error:
            _explain(error)
            raise


def _started(job: Job, allow: Sequence[str]) -> dict[str, Any] | None:
    """run.json of a run that has begun, checked against the config; None of one that has not."""
    started = directory.read_run(job.workdir)
    if started is not None:
        started["config"] = to_dict(parse_config(started["config"]))  # with what older versions did not know
        found = directory.changes(started["config"], to_dict(job.config), allow)
        directory.check_changes(found, job.workdir)
    return started


@contextlib.contextmanager
def _noted(workdir: pathlib.Path) -> Iterator[None]:
    """An error of the run stands in events.jsonl, for whoever waits for its end elsewhere."""
    try:
        yield
    except UserError as error:
        if not isinstance(error, LeaseError):  # the run is another's
            first = (str(error).splitlines() or [""])[0]
            Journal(workdir, jax.process_index() > 0).event("error", exit=error.code, what=first)
        raise


def _grace() -> float | None:
    """Seconds between the first signal and SIGKILL, where a launcher has said so."""
    given = os.environ.get("TLX_GRACE_SECONDS")
    return float(given) if given else None


def _explain(error: jax.errors.JaxRuntimeError) -> None:
    """Raises what a user can act on in place of the runtime's own message, where there is such a thing."""
    first = (str(error).splitlines() or [""])[0]
    if "RESOURCE_EXHAUSTED" in str(error):
        raise DeviceMemoryError(_OUT_OF_MEMORY + first) from error
    if jax.process_count() > 1 and any(sign in str(error) for sign in _LOST):
        raise LostProcess(f"another process of the run is gone; what the device said: {first}") from error


# What collectives say when the other side has closed its connection or does not answer.
_LOST = ("Gloo", "Connection", "connection", "UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED", "NCCL", "peer")


_OUT_OF_MEMORY = (
    "the devices have too little memory for this run; raise train.microbatches, set "
    "model.execution.remat = 'full', or split the parameters with mesh.fsdp. What the device said: "
)


def _train(
    verb: Verb,
    jobs: Sequence[Job],
    build: Build,
    started: Sequence[Any],
    options: argparse.Namespace,
    leases: Sequence[Lease],
    preemption: Preemption,
    hosts: Sequence[str],
) -> None:
    """From checked configs to the end of the runs."""
    silent, clock, config = jax.process_index() > 0, Clock(), jobs[0].config
    with clock("prepare"):
        starts = zip(jobs, started, strict=True)
        runs = [_assemble(each, build, old, options.allow_change) for each, old in starts]
    check_room(jobs[0].workdir, sum(tree.num_bytes(hooks.saved_part(run.state)) for run in runs))
    watchdog = Watchdog(clock, config.train.stall_seconds, jax.process_index())
    room = Room(preemption, clock, watchdog)
    with runs[0].use(), contextlib.ExitStack() as stack, watchdog:
        desks = [_desk(run, lease, clock, len(runs) > 1) for run, lease in zip(runs, leases, strict=True)]
        for desk in desks:
            stack.enter_context(desk.checkpoints).prepare()
        with clock("compile"):
            made = _first_states(runs, jobs, desks)
        step = _step_of(made.state)
        for run, desk in zip(runs, desks, strict=True):
            if not silent:
                record(run, desk.workdir)
            desk.journal.resume(step)
        costs = introduce(runs[0], [desk.workdir for desk in desks], Progress(0, silent=silent).say)
        for run, desk, old in zip(runs, desks, started, strict=True):
            tell_start(run, desk.journal, desk.progress.say, step, old, options.allow_change)
        agreement = _agreement(runs[0], hosts) if len(hosts) > 1 else None
        evaluators = [verb.evaluator(run) for run in runs]
        state = _loop(runs, desks, room, costs, made, evaluators, agreement, options.profile)
        results: list[Any] = [None] * len(runs)
        with clock("evaluate"):
            for place, run in enumerate(runs if config.eval.final else ()):
                results[place] = verb.final(run, evaluators[place], made.view(state, place))
    if not silent:  # outside the mesh: what follows is one process' own
        for run, desk, result in zip(runs, desks, results, strict=True):
            if len(runs) > 1:
                print(f"\n{desk.workdir.name}")
            verb.end(run, desk, result, costs.peak, options.config_words)
            desk.journal.event("end", step=config.train.steps, seconds=clock.seconds)


def _desk(run: Run, lease: Lease, clock: Clock, several: bool) -> Desk:
    workdir, silent = lease.folder, jax.process_index() > 0
    journal = Journal(workdir, silent)
    rest = {"guard": lease.check, "on_event": journal.event}
    checkpoints = Checkpoints(workdir / "checkpoints", run.config.checkpoint, **rest)
    label = f"{workdir.name}  " if several else ""
    progress = Progress(run.config.train.steps, silent=silent, label=label)
    return Desk(workdir, journal, checkpoints, lease, progress, clock)


def _agreement(run: Run, hosts: Sequence[str]) -> ReplicaCheck:
    """What several processes compare while they train."""
    config = run.config
    sharding = next(
        iter(parallel.batch_sharding(run.mesh, run.rules, abstract_batch(config, run.spec)).values())
    )
    return ReplicaCheck(
        config.train.compare_every,
        run.mesh,
        hooks.saved_part(run.state),
        {"config": sha256_json(to_dict(config)), "data": run.train.fingerprint + run.tokenizer.hash},
        BatchSource(parallel.rows_by_process(sharding, config.train.batch_size), run.train.batch),
        hosts,
    )


def _assemble(job: Job, build: Build, started: Any, allow: Sequence[str]) -> Run:
    """The run's parts; a resumed one keeps its tokenizer, and its data must be what they were."""
    config, workdir = job.config, job.workdir
    if started is None:
        return build(config, None)
    same = started["config"]["tokenizer"] == to_dict(config)["tokenizer"]
    run = build(config, load_tokenizer(workdir / "tokenizer") if same else None)
    now = {"tokenizer_hash": run.tokenizer.hash, "data": {"fingerprint": run.train.fingerprint}}
    old = {
        "tokenizer_hash": started["tokenizer_hash"],
        "data": {"fingerprint": started["data"]["fingerprint"]},
    }
    directory.check_changes(directory.changes(old, now, allow), workdir)
    return run


def _first_states(runs: Sequence[Run], jobs: Sequence[Job], desks: Sequence[Desk]) -> Together:
    """The runs' states, each as its checkpoint has it, or as before the first step."""
    first, three = runs[0], zip(runs, jobs, desks, strict=True)
    states = (_first_state(run, desk.checkpoints, job.step) for run, job, desk in three)
    if len(runs) == 1:
        return alone(next(states), first.step)
    return together(states, len(runs), first.state, first.step)


def _first_state(run: Run, checkpoints: Checkpoints, step: int | None) -> State:
    """A sound checkpoint's state, or the one before the first step where there never was one."""
    loaded = checkpoints.restore(hooks.saved_part(run.state), step)
    return run.init() if loaded is None else State(**loaded.tree, frozen=run.frozen())


def _step_of(state: State) -> int:
    """Steps done, of one state or of several that are at the same one."""
    return int(np.max(jax.device_get(state.step)))


def _loop(
    runs: Sequence[Run],
    desks: Sequence[Desk],
    room: Room,
    costs: hooks.Costs,
    made: Together,
    evaluators: Sequence[Evaluator],
    agreement: ReplicaCheck | None,
    profile: bool,
) -> State:
    """Trains to the last step and saves the end."""
    config, begin = runs[0].config, _step_of(made.state)
    called: list[Any] = [room.watchdog, *([agreement] if agreement else [])]
    logs, trackers = [], []
    for place, (run, desk, evaluator) in enumerate(zip(runs, desks, evaluators, strict=True)):
        if jax.process_index() == 0:
            trackers.append(start_trackers(config.log, desk.workdir, config.name, to_dict(run.config)))
        view = partial(made.view, place=place)
        log, own = _hooks(run, desk, costs, evaluator, trackers[place : place + 1], view)
        logs.append(log)
        called += [_of(place, log), *own]
    called.append(_stop_hook(desks, room, logs, made))
    if profile and jax.process_index() == 0:
        called.append(hooks.profile_hook(config.train, str(desks[0].workdir / "profile"), desks[0].progress))
    steps = range(begin + 1, config.train.steps + 1)
    with contextlib.ExitStack() as stack:
        rows = [_rows(run, begin, agreement, stack) for run in runs]
        state = train(made.step, made.state, zip(*rows, strict=True), steps, called, room.clock)
    for log in logs:
        log.finish()
    if agreement:
        agreement.finish()
    for desk in desks:
        desk.progress.close()
    for tracker in trackers:
        tracker.close()
    with room.clock("checkpoint"):
        for folder in _save(config.train.steps, state, desks, made):
            raise StorageError(
                f"step {config.train.steps}, the last, could not be saved to {folder} (the reason is in "
                "events.jsonl); once there is room, the same command goes on from the newest one"
            )
    return state


def _rows(
    run: Run, begin: int, agreement: ReplicaCheck | None, stack: contextlib.ExitStack
) -> Iterator[dict[str, jax.Array]]:
    """The run's batches from the `begin`-th on, on its devices."""
    batches = stack.enter_context(contextlib.closing(run.train.iterate(begin, run.local_row_indices)))
    return map(run.to_devices, map(agreement.see, batches) if agreement else batches)


def _hooks(
    run: Run,
    desk: Desk,
    costs: hooks.Costs,
    evaluator: Evaluator,
    trackers: Sequence[Trackers],
    view: Callable[[State], State],
) -> tuple[hooks.LogHook, list[Any]]:
    """What is told of one run: its log, which is given its metrics, and others, given the state of all."""
    config = run.config
    log = hooks.LogHook(config.log, config.train, costs, desk.journal, trackers, desk.progress, desk.clock)
    sinks = (desk.journal, *trackers)

    def evaluate(state: State, num_batches: int | None) -> Mapping[str, float]:
        return evaluator(view(state), num_batches)

    return log, [
        hooks.eval_hook(config.eval, evaluate, log, sinks, desk.progress, desk.clock),
        hooks.checkpoint_hook(desk.checkpoints, log, desk.clock, view),
    ]


def _of(place: int, log: hooks.LogHook) -> Callable[..., None]:
    """The log of one run, given the metrics of all."""
    return lambda step, state, metrics: log(step, state, metrics[place])


def _save(step: int, state: State, desks: Sequence[Desk], made: Together) -> list[pathlib.Path]:
    """Saves all runs, and waits for that. The folders of those that could not be saved."""
    for place, desk in enumerate(desks):
        desk.checkpoints.save(step, hooks.saved_part(made.view(state, place)))
    saved = [desk.checkpoints.wait() for desk in desks]
    return [desk.checkpoints.folder for desk, well in zip(desks, saved, strict=True) if not well]


def _stop_hook(
    desks: Sequence[Desk], room: Room, logs: Sequence[hooks.LogHook], made: Together
) -> Callable[..., None]:
    """Leaves the loop when all processes agree to, with checkpoints; or when a lease is lost."""

    def hook(step: int, state: State, metrics: Any) -> None:
        for desk in desks:
            if desk.lease.lost:
                raise LeaseError(f"another run has taken {desk.workdir} over; this one stops at step {step}")
        if not room.preemption.agreed():
            return
        with room.clock("checkpoint"):
            for log in logs:
                log.finish()
            _save(step, state, desks, made)
        for desk in desks:
            desk.progress.close()
        for desk in desks:
            if desk.checkpoints.latest != step:
                raise StorageError(
                    f"stopped at step {step}, but could not save it; an older checkpoint stands"
                )
        for desk in desks:
            desk.journal.event("preempt", step=step, why=room.preemption.why)
        raise Preempted(f"preempted at step {step}, saved, rerun to resume")

    return hook
