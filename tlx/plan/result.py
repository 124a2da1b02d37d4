"""The result of planning, and the figures that follow from step time and memory."""

import dataclasses
from typing import Any

from tlx.plan.footprint import Parameters, StepFlops
from tlx.plan.storage import CheckpointCosts
from tlx.plan.target import Target
from tlx.plan.traffic import Traffic

MFU_FORMULA = (
    "3 x the FLOPs of all matrix products of the forward pass (attention whole, nothing computed twice) / "
    "(step time x chips x dense bfloat16 peak)"
)


@dataclasses.dataclass(frozen=True)
class Plan:
    """Memory, FLOPs, traffic and step time of a run on a machine that is not here.

    Bytes are of one chip, FLOPs of all chips together.
    """

    target: str
    """The hardware, as it was written."""
    method: str
    """Name of the compiler that said so, or "analytic"."""
    mesh: dict[str, int]
    """{axis: devices}."""
    fits: bool
    """Whether memory["total"] is at most memory_available."""
    parameters: Parameters
    """Numbers of parameters."""
    memory: dict[str, int]
    """Bytes by part; "total" is what must fit."""
    memory_available: int
    """Bytes that a program may use on a chip."""
    work: StepFlops
    """FLOPs of a step."""
    flops_compiled: int | None
    """FLOPs of the compiled matrix products without custom kernels; None where nothing is compiled."""
    collectives: Traffic
    """Bytes that are sent in a step, by kind of collective and mesh axes."""
    collectives_least: Traffic
    """The same as the layout needs at least."""
    times: dict[str, float]
    """Milliseconds of the parts that the step time is made of."""
    step_ms: float
    """Step time in milliseconds."""
    step_ms_without_kernels: float
    """The same without custom kernels."""
    tokens_per_step: int
    """Token positions of a batch, of both stacks where there are two."""
    steps: int
    """Number of steps of the run."""
    num_chips: int
    """Number of chips."""
    peak: float
    """Dense bfloat16 FLOP/s of all chips."""
    watts: float
    """Power of a chip; 0 where it is not published."""
    price: float | None
    """Price of a chip for an hour; None leaves out the cost."""
    checkpoint: CheckpointCosts
    """Bytes and seconds of a checkpoint."""
    notes: tuple[str, ...] = ()
    """Sentences on how far the figures hold."""
    changes: tuple[str, ...] = ()
    """Overrides after which it fits, each checked; empty where it fits or none is known."""

    models: dict[str, int] = dataclasses.field(default_factory=dict)
    """Bytes of the parameters of each model, of tasks that sample their own answers: policy, value, reference ..."""

    @property
    def mfu(self) -> float:
        """Model FLOPs over the chips' peak FLOPs in the step time."""
        return self.work.model_flops / (self.step_ms / 1e3 * self.peak)

    @property
    def days(self) -> float:
        """Duration of the run."""
        return self.steps * self.step_ms / 1e3 / 86400

    @property
    def chip_hours(self) -> float:
        """Duration of the run times its chips."""
        return self.days * 24 * self.num_chips

    def to_json(self) -> dict[str, Any]:
        """Return plain values under the keys that the README names."""
        return {
            "target": self.target,
            "method": self.method,
            "mesh": {axis: size for axis, size in self.mesh.items() if size > 1},
            "fits": self.fits,
            "parameters": self.parameters._asdict(),
            "memory_bytes_per_chip": self.memory["total"],
            "memory_bytes_available": self.memory_available,
            "memory": self.memory,
            "memory_by_model": self.models,
            "flops_per_step": self.work.model_flops,
            "flops_per_step_computed": self.work.hardware_flops,
            "flops_per_step_compiled": self.flops_compiled,
            "collective_bytes_per_chip": sum(sum(axes.values()) for axes in self.collectives.values()),
            "collectives": self.collectives,
            "collectives_least": self.collectives_least,
            "step_ms": self.step_ms,
            "step_ms_without_kernels": self.step_ms_without_kernels,
            "times_ms": self.times,
            "mfu": self.mfu,
            "mfu_formula": MFU_FORMULA,
            "tokens_per_step": self.tokens_per_step,
            "tokens_per_s_per_chip": self.tokens_per_step / (self.step_ms / 1e3) / self.num_chips,
            "chips": self.num_chips,
            "tokens": self.tokens_per_step * self.steps,
            "days": self.days,
            "chip_hours": self.chip_hours,
            "energy_kwh": self.chip_hours * self.watts / 1e3 if self.watts else None,
            "cost": self.chip_hours * self.price if self.price is not None else None,
            "checkpoint": self.checkpoint.to_json(),
            "notes": list(self.notes),
            "changes": list(self.changes),
        }


def tokens_per_step(batch: dict[str, Any]) -> int:
    """Return the number of token positions of a batch, of both stacks where there are two."""
    return sum(leaf.size for name, leaf in batch.items() if name.endswith("tokens"))


def chip_figures(target: Target, price: float | None) -> dict[str, Any]:
    """Return the fields of a plan that follow from the target's chip."""
    return {
        "num_chips": target.num_chips,
        "peak": target.num_chips * target.chip.bf16_flops,
        "watts": target.chip.watts,
        "price": price,
        "memory_available": target.chip.memory_usable,
    }
