"""What all verbs that train share: from a checked config to the end of a run that may have begun before."""

import argparse
import contextlib
import dataclasses
import logging
import os
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from tlx import parallel
from tlx.base import tree
from tlx.base.config import to_dict
from tlx.base.errors import DeviceMemoryError, LeaseError, LostProcess, Preempted, StorageError, UserError
from tlx.base.files import sha256_json
from tlx.base.memory import keep_freed_memory
from tlx.checkpoint.checkpoints import Checkpoints
from tlx.checkpoint.lease import Lease
from tlx.cli import flags
from tlx.launch.preflight import check_room, preflight
from tlx.nn.kernels.choice import choose
from tlx.run import Run, RunConfig, abstract_batch, assemble, check_devices, parsed
from tlx.text import Tokenizer, load_tokenizer
from tlx.train import directory, hooks
from tlx.train.agreement import Agreement, Batches
from tlx.train.clock import Clock
from tlx.train.journal import Journal
from tlx.train.loop import train
from tlx.train.peak import matmul_peak
from tlx.train.preemption import Preemption
from tlx.train.progress import Progress
from tlx.train.state import State
from tlx.train.trackers import start_trackers
from tlx.train.watchdog import Watchdog
from tlx.train.work import training_flops

# A run of a config, with the tokenizer that it was started with.
Build = Callable[[RunConfig, Tokenizer | None], Run]
Evaluator = Callable[[State, int | None], Mapping[str, float]]


class Desk(NamedTuple):
    """What watches and keeps a run while it trains."""

    workdir: pathlib.Path
    journal: Journal
    checkpoints: Checkpoints
    lease: Lease
    preemption: Preemption
    progress: Progress
    clock: Clock
    watchdog: Watchdog
    agreement: Agreement | None  # of several processes


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


def parser(verb: str, about: str) -> argparse.ArgumentParser:
    """The flags that all verbs that train have."""
    made = flags.parser(verb, about)
    flags.add_config(made)
    made.add_argument("--workdir", help="the run's directory; runs/NAME by default")
    made.add_argument("--allow-change", action="append", default=[], metavar="KEY", help=_ALLOW_HELP)
    made.add_argument("--profile", action="store_true", help="write a JAX trace of train.profile_steps")
    return made


def begin() -> None:
    """Joins the processes of the run; before anything else touches a device."""
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    parallel.start_process()
    if jax.default_backend() == "cpu":
        keep_freed_memory()


def carry_out(verb: Verb, config: RunConfig, options: argparse.Namespace, build: Build = assemble) -> None:
    """The run of a checked config, from its beginning or from where it was left."""
    config = dataclasses.replace(config, name=config.name or options.config_name)
    workdir = pathlib.Path(options.workdir or f"runs/{config.name}").absolute()
    check_devices(config, jax.device_count())
    started = directory.read_run(workdir)
    if started is not None:
        started["config"] = to_dict(parsed(started["config"]))  # with what older versions did not know
        found = directory.changes(started["config"], to_dict(config), options.allow_change)
        directory.check_changes(found, workdir)
    hosts = preflight(workdir, sha256_json(to_dict(config)), directory.versions())
    with _noted(workdir):
        try:
            with Lease(workdir) as lease, Preemption(grace_seconds=_grace()) as preemption:
                _train(verb, config, build, started, options, lease, preemption, hosts)
        except jax.errors.JaxRuntimeError as error:
            _explain(error)
            raise


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


_ALLOW_HELP = "on resuming, let this value (or group of values) of the config differ; may be repeated"

_OUT_OF_MEMORY = (
    "the devices have too little memory for this run; raise train.microbatches, set "
    "model.execution.remat = 'full', or split the parameters with mesh.fsdp. What the device said: "
)


def _train(
    verb: Verb,
    config: RunConfig,
    build: Build,
    started: Any,
    options: argparse.Namespace,
    lease: Lease,
    preemption: Preemption,
    hosts: Sequence[str],
) -> None:
    """From a checked config to the end of the run."""
    workdir, silent, clock = lease.folder, jax.process_index() > 0, Clock()
    with clock("prepare"):
        run = _assemble(config, build, started, workdir, options.allow_change)
    check_room(workdir, tree.num_bytes(hooks.saved_part(run.state)))
    journal = Journal(workdir, silent)
    saved = Checkpoints(workdir / "checkpoints", config.checkpoint, guard=lease.check, on_event=journal.event)
    watchdog = Watchdog(clock, config.train.stall_seconds, jax.process_index())
    with run.use(), saved as checkpoints, watchdog:
        checkpoints.prepare()
        with clock("compile"):
            state = _first_state(run, checkpoints)
        if not silent:
            _record(run, workdir)
        journal.resume(int(state.step))
        progress = Progress(int(state.step), config.train.steps, silent=silent)
        agreement = _agreement(run, hosts) if len(hosts) > 1 else None
        desk = Desk(workdir, journal, checkpoints, lease, preemption, progress, clock, watchdog, agreement)
        costs = _introduce(run, desk, int(state.step), started, options.allow_change)
        evaluator = verb.evaluator(run)
        state = _loop(run, desk, costs, state, evaluator, options.profile)
        with clock("evaluate"):
            result = verb.final(run, evaluator, state) if config.eval.final else None
    if not silent:  # outside the mesh: what follows is one process' own
        verb.end(run, desk, result, costs.peak, options.config_words)
        desk.journal.event("end", step=config.train.steps, seconds=desk.clock.seconds)


def _agreement(run: Run, hosts: Sequence[str]) -> Agreement:
    """What several processes compare while they train."""
    config = run.config
    sharding = next(
        iter(parallel.batch_sharding(run.mesh, run.rules, abstract_batch(config, run.spec)).values())
    )
    return Agreement(
        config.train.compare_every,
        run.mesh,
        hooks.saved_part(run.state),
        {"config": sha256_json(to_dict(config)), "data": run.train.fingerprint + run.tokenizer.hash},
        Batches(parallel.rows_by_process(sharding, config.train.batch_size), run.train.batch),
        hosts,
    )


def _assemble(
    config: RunConfig,
    build: Build,
    started: Any,
    workdir: pathlib.Path,
    allow: Sequence[str],
) -> Run:
    """The run's parts; a resumed one keeps its tokenizer, and its data must be what they were."""
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


def _first_state(run: Run, checkpoints: Checkpoints) -> State:
    """The newest sound checkpoint's state, or the one before the first step where there never was one."""
    loaded = checkpoints.restore(hooks.saved_part(run.state))
    return run.init() if loaded is None else State(**loaded.tree, frozen=run.frozen())


def _record(run: Run, workdir: pathlib.Path) -> None:
    """Makes the directory self-contained: the tokenizer, then run.json."""
    run.tokenizer.save(workdir / "tokenizer")
    directory.write_run(
        workdir,
        to_dict(run.config),
        run.tokenizer.hash,
        {
            "fingerprint": run.train.fingerprint,
            "train_tokens": run.train.num_tokens,
            "validation_tokens": run.validation.num_tokens,
        },
        dict(run.mesh.shape),
        tree.num_params((run.state.params, run.state.frozen)),
    )


def _introduce(run: Run, desk: Desk, step: int, started: Any, allow: Sequence[str]) -> hooks.Costs:
    """Says what will be trained on what, and from where; returns what a step costs."""
    config, say = run.config, desk.progress.say
    batch = abstract_batch(config, run.spec)
    tokens = sum(leaf.size for name, leaf in batch.items() if name.endswith("tokens"))
    flops = training_flops(run.module, batch, config.adapt)
    peak = matmul_peak()
    mesh = {axis: size for axis, size in run.mesh.shape.items() if size > 1}
    device = jax.devices()[0]
    kernel, why = choose(
        run.module.model.block("encoder"),
        device.platform,
        run.module.model.block("encoder").dtype,
        run.spec.length,
    )
    say(f"run        {desk.workdir}")
    trained, frozen = (tree.num_params(part) for part in (run.state.params, run.state.frozen))
    share = f" ({trained:,} trained, {trained / (trained + frozen):.2%})" if frozen else ""
    say(
        f"model      {config.objective.name}, {config.model.kind}: {trained + frozen:,} "
        f"parameters{share}, {flops / tokens / 1e6:.3g} MFLOP a token"
    )
    say(
        f"data       {run.train.num_tokens:,} tokens, one pass is {run.train.steps_per_epoch:,} of "
        f"{config.train.steps:,} steps; {run.validation.num_tokens:,} tokens for validation"
    )
    say(f"devices    {jax.device_count()} x {device.device_kind}, mesh {mesh or 'of one device'}")
    if config.model.kind != "bilstm":
        say(f"attention  {kernel} ({why})")
    say(f"peak       {peak.flops_per_s / 1e9:,.0f} GFLOP/s ({peak.source})")
    event = {"step": step, "devices": jax.device_count(), "processes": jax.process_count(), "mesh": mesh}
    desk.journal.event("start" if started is None else "resume", **event)
    if started is not None:
        _tell_resumed(run, desk, step, started, allow)
    return hooks.Costs(tokens, flops, peak.flops_per_s)


def _tell_resumed(run: Run, desk: Desk, step: int, started: Any, allow: Sequence[str]) -> None:
    say, last = desk.progress.say, run.config.train.steps
    found = directory.changes(started["config"], to_dict(run.config), allow)
    source = f"checkpoints/{step}" if step else "the beginning, no checkpoint was complete"
    say(f"resuming   from {source}: {last - step:,} of {last:,} steps to go")
    if found:
        say("changed since the last start:\n" + directory.table(found))
        desk.journal.event("changed", changes={change.key: [change.old, change.new] for change in found})
    if started["mesh"] != dict(run.mesh.shape):
        say(f"topology changed from {started['mesh']} to {dict(run.mesh.shape)}: not bit-exact")


def _loop(
    run: Run, desk: Desk, costs: hooks.Costs, state: State, evaluator: Evaluator, profile: bool
) -> State:
    """Trains to the last step and saves the end."""
    config, begin = run.config, int(state.step)
    trackers = []
    if jax.process_index() == 0:
        trackers = [start_trackers(config.log, desk.workdir, config.name, to_dict(config))]
    sinks = (desk.journal, *trackers)
    log = hooks.LogHook(config.log, config.train, costs, desk.journal, trackers, desk.progress, desk.clock)
    called = [
        log,
        desk.watchdog,
        *([desk.agreement] if desk.agreement else []),
        hooks.eval_hook(config.eval, evaluator, log, sinks, desk.progress, desk.clock),
        hooks.checkpoint_hook(desk.checkpoints, log, desk.clock),
        _stop_hook(desk, log),
    ]
    if profile and jax.process_index() == 0:
        called.append(hooks.profile_hook(config.train, str(desk.workdir / "profile"), desk.progress))
    steps = range(begin + 1, config.train.steps + 1)
    with contextlib.closing(run.train.iterate(begin, run.rows)) as batches:
        if desk.agreement:
            batches = map(desk.agreement.see, batches)
        state = train(run.step, state, map(run.place, batches), steps, called, desk.clock)
    log.finish()
    if desk.agreement:
        desk.agreement.finish()
    desk.progress.close()
    for tracker in trackers:
        tracker.close()
    with desk.clock("checkpoint"):
        desk.checkpoints.save(config.train.steps, hooks.saved_part(state))
        if not desk.checkpoints.wait():
            raise StorageError(
                f"step {config.train.steps}, the last, could not be saved to {desk.checkpoints.folder} (the "
                "reason is in events.jsonl); once there is room, the same command goes on from the newest one"
            )
    return state


def _stop_hook(desk: Desk, log: hooks.LogHook) -> Callable[..., None]:
    """Leaves the loop when all processes agree to, with a checkpoint; or when the lease is lost."""

    def hook(step: int, state: State, metrics: Any) -> None:
        if desk.lease.lost:
            raise LeaseError(f"another run has taken {desk.workdir} over; this one stops at step {step}")
        if not desk.preemption.agreed():
            return
        with desk.clock("checkpoint"):
            log.finish()
            desk.checkpoints.save(step, hooks.saved_part(state))
            desk.checkpoints.wait()
        desk.progress.close()
        if desk.checkpoints.latest != step:
            raise StorageError(f"stopped at step {step}, but could not save it; an older checkpoint stands")
        desk.journal.event("preempt", step=step, why=desk.preemption.why)
        raise Preempted(f"preempted at step {step}, saved, rerun to resume")

    return hook
