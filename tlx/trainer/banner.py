"""Facts of a run that are printed and recorded before it trains."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from tlx.base import place as places
from tlx.base import tree
from tlx.base.config import from_dict, to_dict
from tlx.base.place import Place
from tlx.checkpoint.checkpoints import Checkpoints
from tlx.nn.kernels.choice import choose
from tlx.nn.stack import scan_note
from tlx.optim.config import OptimizerConfig, ScheduleConfig
from tlx.optim.schedule import make_schedule
from tlx.run import RunConfig
from tlx.run.assemble import Run
from tlx.run.config import get_objective
from tlx.run.spec import abstract_batch
from tlx.tasks.shared.base import is_supervised
from tlx.training import directory, hooks
from tlx.training.journal import Journal
from tlx.training.peak import matmul_peak
from tlx.training.step_flops import training_flops


def record(run: Run, workdir: Place, checkpoints: Checkpoints) -> None:
    """Make the run directory self-contained: write the tokenizer, then run.json.

    Args:
        run: the assembled run.
        workdir: its directory.
        checkpoints: its checkpoints, which have the ids of the run and of its starts.
    """
    with places.written_folder(workdir / "tokenizer") as folder:
        run.tokenizer.save(folder)
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
        checkpoints.run_id,
        checkpoints.starts,
    )


def introduce(run: Run, workdir: Place, say: Callable[[str], None]) -> hooks.Costs:
    """Print what will be trained on what.

    Args:
        run: the assembled run.
        workdir: its directory.
        say: prints a line.

    Returns:
        The cost of a step, and the measured peak of the devices.
    """
    config = run.config
    batch = abstract_batch(config, run.spec)
    tokens = sum(leaf.size for name, leaf in batch.items() if name.endswith("tokens"))
    flops = training_flops(run.module, batch, config.adapt)
    peak = matmul_peak()
    device = jax.devices()[0]
    say(f"run        {workdir}")
    say(
        f"model      {config.objective.name}, {config.model.kind}: {_parameters(run)}, "
        f"{flops / tokens / 1e6:.3g} MFLOP a token"
    )
    passes = config.train.steps / run.train.steps_per_epoch
    read = f"{passes:.3g} passes" if passes >= 1 else f"{passes:.2%} of a pass"
    say(
        f"data       {run.train.num_tokens:,} tokens, {read} in {config.train.steps:,} steps; "
        f"{run.validation.num_tokens:,} tokens for validation"
    )
    ceiling = _ceiling(run)
    if ceiling is not None:
        say(f"ceiling    right predictions score {ceiling} through this tokenizer, on the validation records")
    say(f"devices    {jax.device_count()} x {device.device_kind}, mesh {_mesh(run) or 'of one device'}")
    if config.train.rows_per_device:
        say(
            f"batch      {config.train.batch_size} rows in {config.train.microbatches} microbatches, at most "
            f"{config.train.rows_per_device} on a device at once (train.rows_per_device)"
        )
    if config.model.kind != "bilstm":
        block = run.module.model.block("encoder")
        kernel, why = choose(block, device.platform, block.dtype, run.spec.length)
        say(f"attention  {kernel} ({why})")
        if note := scan_note(block, max(run.module.model.num_layers, run.module.model.decoder_layers)):
            say(f"layers     {note}")
    say(f"peak       {peak.flops_per_s / 1e9:,.0f} GFLOP/s ({peak.source})")
    return hooks.Costs(tokens, flops, peak.flops_per_s)


def _ceiling(run: Run) -> str | None:
    """The best score that the tokenizer allows, with its name; None for what has none."""
    objective = get_objective(run.config)
    if not is_supervised(objective):
        return None
    split: Any = run.validation
    spec: Any = run.spec
    scores = objective.ceiling(split.items, split.records, spec)
    return None if scores is None else f"{scores.main} = {scores.figures[scores.main]:.4f}"


def tell_start(
    run: Run,
    journal: Journal,
    say: Callable[[str], None],
    step: int,
    source: str,
    saved: Any,
    allow: Sequence[str],
) -> None:
    """Write to the journal that the run starts or resumes, and print from where it resumes.

    Args:
        run: the assembled run.
        journal: its journal.
        say: prints a line.
        step: steps done.
        source: where the state of a resumed run was read; empty for the initial one.
        saved: run.json of a run that is resumed, None of a new one.
        allow: keys of the config that may change.
    """
    event = {"step": step, "devices": jax.device_count(), "processes": jax.process_count()}
    journal.event("start" if saved is None else "resume", **event, mesh=_mesh(run))
    if saved is None:
        return
    last = run.config.train.steps
    changes = directory.changes(saved["config"], to_dict(run.config), allow)
    source = source or "the beginning, no checkpoint was complete"
    say(f"resuming   from {source}: {last - step:,} of {last:,} steps to go")
    if changes:
        say("changed since the last start:\n" + directory.table(changes))
        journal.event("changed", changes={change.key: [change.old, change.new] for change in changes})
    note = schedule_note(saved["config"], run.config, step)
    if note:
        say(note)
    if saved["mesh"] != dict(run.mesh.shape):
        say(f"topology changed from {saved['mesh']} to {dict(run.mesh.shape)}: not bit-exact")


def schedule_note(saved: Mapping[str, Any], config: RunConfig, step: int) -> str:
    """Return a line on the learning rate where a resumed run goes on with another than it had; else empty.

    Args:
        saved: config that the run was started with, in today's keys.
        config: config now.
        step: steps done.
    """
    values = saved["optimizer"]
    if ":" in values["schedule"]["name"] or ":" in config.optimizer.schedule.name:
        return ""  # code from outside tlx, which only the run itself loads
    schedule = from_dict(ScheduleConfig, values["schedule"], "optimizer.schedule")
    before = OptimizerConfig(learning_rate=values["learning_rate"], schedule=schedule)
    old_steps = saved["train"]["steps"]
    old = float(make_schedule(before, old_steps)(min(step, old_steps)))
    new = float(make_schedule(config.optimizer, config.train.steps)(step))
    if math.isclose(old, new, rel_tol=1e-3):
        return ""
    steps = config.train.steps
    why = f"{config.optimizer.schedule.name} with the peak {config.optimizer.learning_rate:g} over {steps:,} steps"
    if steps != old_steps:
        why += f" instead of {old_steps:,}: a schedule spans the whole run"
    return f"schedule   learning rate {new:.3g} from here on, it would have been {old:.3g} ({why})"


def _parameters(run: Run) -> str:
    """The number of parameters, and how many are trained where not all are."""
    trained = tree.num_params(run.state.params)
    frozen = tree.num_params(run.state.frozen)
    share = f" ({trained:,} trained, {trained / (trained + frozen):.2%})" if frozen else ""
    return f"{trained + frozen:,} parameters{share}"


def _mesh(run: Run) -> dict[str, int]:
    """The mesh's axes of more than one device."""
    return {axis: size for axis, size in run.mesh.shape.items() if size > 1}
