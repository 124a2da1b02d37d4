"""What a run says of itself before it trains, and what it writes down first."""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax

from tlx.base import tree
from tlx.base.config import to_dict
from tlx.nn.kernels.choice import choose
from tlx.run.assemble import Run
from tlx.run.spec import abstract_batch
from tlx.training import directory, hooks
from tlx.training.journal import Journal
from tlx.training.peak import matmul_peak
from tlx.training.step_flops import training_flops


def record(run: Run, workdir: pathlib.Path) -> None:
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


def introduce(run: Run, workdirs: Sequence[pathlib.Path], say: Callable[[str], None]) -> hooks.Costs:
    """Says what will be trained on what, of the first of the runs; returns what a step of one costs."""
    config = run.config
    batch = abstract_batch(config, run.spec)
    tokens = sum(leaf.size for name, leaf in batch.items() if name.endswith("tokens"))
    flops = training_flops(run.module, batch, config.adapt)
    peak = matmul_peak()
    device = jax.devices()[0]
    kernel, why = choose(
        run.module.model.block("encoder"),
        device.platform,
        run.module.model.block("encoder").dtype,
        run.spec.length,
    )
    for workdir in workdirs:
        say(f"run        {workdir}")
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
    say(f"devices    {jax.device_count()} x {device.device_kind}, mesh {_mesh(run) or 'of one device'}")
    if config.model.kind != "bilstm":
        say(f"attention  {kernel} ({why})")
    say(f"peak       {peak.flops_per_s / 1e9:,.0f} GFLOP/s ({peak.source})")
    return hooks.Costs(tokens, flops, peak.flops_per_s)


def tell_start(
    run: Run, journal: Journal, say: Callable[[str], None], step: int, started: Any, allow: Sequence[str]
) -> None:
    """Writes down that the run starts, or goes on (where `started` is its run.json); says from where."""
    event = {"step": step, "devices": jax.device_count(), "processes": jax.process_count()}
    journal.event("start" if started is None else "resume", **event, mesh=_mesh(run))
    if started is None:
        return
    last = run.config.train.steps
    found = directory.changes(started["config"], to_dict(run.config), allow)
    source = f"checkpoints/{step}" if step else "the beginning, no checkpoint was complete"
    say(f"resuming   from {source}: {last - step:,} of {last:,} steps to go")
    if found:
        say("changed since the last start:\n" + directory.table(found))
        journal.event("changed", changes={change.key: [change.old, change.new] for change in found})
    if started["mesh"] != dict(run.mesh.shape):
        say(f"topology changed from {started['mesh']} to {dict(run.mesh.shape)}: not bit-exact")


def _mesh(run: Run) -> dict[str, int]:
    """The mesh's axes of more than one device."""
    return {axis: size for axis, size in run.mesh.shape.items() if size > 1}
