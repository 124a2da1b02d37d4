"""A step that samples its own answers: memory of its models, and seconds that it samples, scores and trains.

Lower bounds, as the analytic estimate's are. A sampled token reads the policy's parameters and the cache once, and
costs at least a forward pass. Scoring is a forward pass of each model that looks at the answers, whose FLOPs are in
the ratio of its parameters to the policy's. Training is `objective.epochs` passes of all rows, and reads the state
for each update.
"""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp

from tlx.base.tree import num_params
from tlx.plan.footprint import Program, RunConfig, StepFlops, device_bytes
from tlx.plan.target import Target
from tlx.rollouts.base import RolloutTask
from tlx.run.config import get_objective


class Phases(NamedTuple):
    """Milliseconds of a step by what is done in it."""

    sample: float
    """Sampling of the answers of all prompts."""
    score: float
    """Log-probabilities of policy and reference, values, and rewards of a reward run."""
    train: float
    """All updates."""

    def times(self) -> dict[str, float]:
        """Return them by the names that a plan prints."""
        return {"sampling": self.sample, "scoring": self.score, "training": self.train}


def is_rollout(config: RunConfig) -> bool:
    """Return whether a run samples its own answers."""
    return isinstance(get_objective(config), RolloutTask)


def model_bytes(program: Program) -> dict[str, int]:
    """Return the bytes on one device of each model: the trained ones and those that are frozen beside them."""
    state = program.state
    parts: dict[str, Any] = {"policy": state.params["model"], **state.params.get("heads", {})}
    for name, tree in state.frozen.items():
        # With adapters the base's own parameters are frozen under their names.
        parts["base" if name == "model" else name] = tree
    return {name: size for name, tree in parts.items() if (size := device_bytes(tree))}


def all_updates(config: RunConfig, work: StepFlops) -> StepFlops:
    """Return the FLOPs of all passes over the answers, given those of one."""
    return StepFlops(*(flops * config.objective.epochs for flops in work))


def phases(
    config: RunConfig, target: Target, program: Program, one_pass: StepFlops, update_traffic: float
) -> Phases:
    """Estimate the phases of a step.

    Args:
        config: Checked config of a rollout task.
        target: Hardware that is planned for.
        program: The run's program on its mesh.
        one_pass: FLOPs of training on all answers once.
        update_traffic: Least bytes that a chip reads and writes for an update.

    Returns:
        The phases.
    """
    chip = target.chip
    peak = target.num_chips * chip.bf16_flops
    forward = one_pass.model_flops / 3
    objective = config.objective
    read = _bytes_per_token(config, program) * chip.devices
    sampled = objective.target_length * read / chip.memory_bandwidth
    policy = num_params(program.state.params["model"])
    others = sum(num_params(tree) for name, tree in program.state.frozen.items() if name != "model")
    passes = others / max(policy, 1)
    if program.module.scores_samples:
        passes += 1
    compute = all_updates(config, one_pass).hardware_flops / peak
    memory = objective.updates * update_traffic / chip.memory_bandwidth
    return Phases(
        sample=1e3 * max(sampled, forward / peak),
        score=1e3 * passes * forward / peak,
        train=1e3 * max(compute, memory),
    )


def _bytes_per_token(config: RunConfig, program: Program) -> float:
    """Return the bytes that a device reads for the next token of its rows: parameters and keys and values."""
    mesh = program.mesh.shape
    model = program.module.model
    block = model.block("decoder")
    itemsize = jnp.dtype(block.dtype).itemsize
    rows = config.train.batch_size * config.objective.num_answers
    rows_per_device = rows / math.prod(mesh[axis] for axis in ("data", "fsdp", "expert"))
    cached = 2 * config.data.sequence_length * block.cached_dims
    params = num_params(program.state.params["model"]) + num_params(program.state.frozen.get("model", {}))
    return itemsize * (params + rows_per_device * cached) / mesh["tensor"]
