"""Which runs of several seeds are made in one program, and why others are not."""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from tlx import parallel
from tlx.base.config import to_dict
from tlx.base.files import sha256_json
from tlx.base.memory import machine_bytes
from tlx.checkpoint import manifest as manifests
from tlx.checkpoint import steps
from tlx.nn.kernels.choice import choose
from tlx.plan.footprint import device_bytes, residual_bytes
from tlx.run import RunConfig
from tlx.run.program import program
from tlx.run.spec import spec_before_tokenizer
from tlx.trainer.driver import Job
from tlx.training import directory
from tlx.training.hooks import saved_part

_SHARE = 0.75  # of a device's memory; the rest is for what the compiler adds
# Platforms on which runs are made one after the other: on processors five in one program took 13 to 24% more
# time a step from 400,000 parameters on, and longer to compile (figures in configs/finetune/README.md).
_ALONE = ("cpu",)


def groups(jobs: Sequence[Job], say: Callable[[str], None] = print) -> list[list[Job]]:
    """The runs in the order in which they are carried out, each list of them in one program; says which.

    Runs that are at their end stand alone: there is nothing to train. Of the others go together those that
    have not begun, and those that have, from the newest step that all of these have saved; but none that
    differ in more than their seed.
    """
    saved = {job.workdir: steps.listing(job.workdir / "checkpoints").complete for job in jobs}
    done = [job for job in jobs if job.config.train.steps in saved[job.workdir]]
    begun = [job for job in jobs if saved[job.workdir] and job not in done]
    fresh = [job for job in jobs if not saved[job.workdir]]
    found = [[job] for job in done]
    for part in (begun, fresh):
        alike = _alike(part)
        if len(alike) > 1:
            keys = ", ".join(_differences([some[0] for some in alike]))
            say(f"seeds      {_names(part)}: {len(alike)} programs at least, for they differ in {keys}")
        for some in alike:
            found += [some] if len(some) == 1 else _together(some, saved, say)
    return found


def _together(
    jobs: list[Job], saved: Mapping[os.PathLike, Sequence[int]], say: Callable[[str], None]
) -> list[list[Job]]:
    """Runs that differ in their seed alone: in one program, or each in its own."""
    obstacle, step = _obstacle(jobs[0].config), _common_step(jobs, saved)
    if saved[jobs[0].workdir] and step is None:
        obstacle = obstacle or "they have saved no step in common"
    needed, memory = (0, 0) if obstacle else _memory(jobs[0].config, len(jobs))
    sizes = f"{needed / 1e9:.2f} GB of {memory / 1e9:.2f} GB a device"
    if not obstacle and needed > _SHARE * memory:
        obstacle = f"together they need {sizes}, of which {_SHARE:.0%} may be used"
    if obstacle:
        say(f"seeds      {_names(jobs)}: one after the other, for {obstacle}")
        return [[job] for job in jobs]
    say(f"seeds      {_names(jobs)}: in one program, {sizes}")
    return [[job._replace(step=step) for job in jobs]]


def _names(jobs: Sequence[Job]) -> str:
    return ", ".join(job.workdir.name for job in jobs)


def _alike(jobs: Sequence[Job]) -> list[list[Job]]:
    """The runs, those that differ in their seed alone in one list."""
    found: dict[str, list[Job]] = {}
    for job in jobs:
        found.setdefault(sha256_json(_unseeded(job)), []).append(job)
    return list(found.values())


def _differences(jobs: Sequence[Job]) -> list[str]:
    """Keys of the config, besides the seed, that are not the same in all runs."""
    first, *others = (_unseeded(job) for job in jobs)
    return sorted({change.key for other in others for change in directory.changes(first, other)})


def _unseeded(job: Job) -> dict[str, Any]:
    return to_dict(dataclasses.replace(job.config, seed=0))


def _obstacle(config: RunConfig) -> str:
    """Why runs cannot be made in one program whatever its size; empty where they can."""
    if jax.process_count() > 1:
        return f"there are {jax.process_count()} processes"
    if jax.default_backend() in _ALONE:
        return "in one program processors are no faster; what is compiled serves them all"
    block = config.model.block("encoder")
    kernel, _ = choose(block, jax.default_backend(), block.dtype, config.data.sequence_length)
    if kernel != "xla" and config.model.kind != "bilstm":
        return (
            f"the attention kernel {kernel} has not been tried on several runs at once; "
            "with model.execution.attention = 'xla' they go together"
        )
    return ""


def _common_step(jobs: Sequence[Job], saved: Mapping[os.PathLike, Sequence[int]]) -> int | None:
    """The newest step that is complete and sound in all runs."""
    common = set.intersection(*(set(saved[job.workdir]) for job in jobs))
    return next(
        (step for step in sorted(common, reverse=True) if all(_sound(job, step) for job in jobs)), None
    )


def _sound(job: Job, step: int) -> bool:
    return manifests.is_sound(job.workdir / "checkpoints" / str(step), job.config.checkpoint.verify)


def _memory(config: RunConfig, count: int) -> tuple[int, int]:
    """Bytes on a device that so many runs need in one program, and those that it has.

    Of each run: its state, a gradient, and what the forward pass keeps for the backward pass. Besides: one
    more state (the run that is being saved or evaluated) and the frozen parameters, once.
    """
    made = program(config, spec_before_tokenizer(config), parallel.make_mesh(config.mesh))
    own = device_bytes(saved_part(made.state))
    each = own + device_bytes(made.state.params) + residual_bytes(config, made)
    return count * each + own + device_bytes(made.state.frozen), _device_bytes()


def _device_bytes() -> int:
    """Memory of a device; processors share that of their machine."""
    device = jax.local_devices()[0]
    limit = (device.memory_stats() or {}).get("bytes_limit")
    return limit or machine_bytes() // jax.local_device_count()
