"""What a plan says, and the figures that follow from step time and memory."""

import dataclasses
from typing import Any

from tlx.plan.footprint import Parameters, RunConfig, StepFlops
from tlx.plan.target import Target
from tlx.plan.traffic import Traffic

MFU_FORMULA = (
    "3 x the FLOPs of all matrix products of the forward pass (attention whole, nothing computed twice) / "
    "(step time x chips x dense bfloat16 peak)"
)


@dataclasses.dataclass(frozen=True)
class Plan:
    """A run on a machine that is not here. Bytes are of one chip, FLOPs of all; `to_json` has the keys."""

    target: str
    method: str  # "analytic", or which compiler said so
    mesh: dict[str, int]
    fits: bool
    parameters: Parameters
    memory: dict[str, int]  # by part; "total" is what must fit
    memory_available: int
    work: StepFlops
    flops_compiled: int | None  # matrix products of the compiled module, kernels left out
    collectives: Traffic
    collectives_least: Traffic
    times: dict[str, float]  # ms: what the step time is made of
    step_ms: float
    step_ms_without_kernels: float
    tokens_per_step: int
    steps: int
    num_chips: int
    peak: float  # FLOP/s of all chips
    watts: float  # of a chip; 0: not published
    price: float | None  # of a chip for an hour
    notes: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()  # overrides that make it fit, each checked

    @property
    def mfu(self) -> float:
        return self.work.model_flops / (self.step_ms / 1e3 * self.peak)

    @property
    def days(self) -> float:
        return self.steps * self.step_ms / 1e3 / 86400

    @property
    def chip_hours(self) -> float:
        return self.days * 24 * self.num_chips

    def to_json(self) -> dict[str, Any]:
        """Plain values, the keys that the README names."""
        return {
            "target": self.target,
            "method": self.method,
            "mesh": {axis: size for axis, size in self.mesh.items() if size > 1},
            "fits": self.fits,
            "parameters": self.parameters._asdict(),
            "memory_bytes_per_chip": self.memory["total"],
            "memory_bytes_available": self.memory_available,
            "memory": self.memory,
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
            "notes": list(self.notes),
            "changes": list(self.changes),
        }


def tokens_per_step(config: RunConfig, batch: dict[str, Any]) -> int:
    """Places of a batch that are read, of both towers where there are two."""
    return sum(leaf.size for name, leaf in batch.items() if name.endswith("tokens"))


def chip_figures(target: Target, price: float | None) -> dict[str, Any]:
    """What a plan takes from the target's chip."""
    return {
        "num_chips": target.num_chips,
        "peak": target.num_chips * target.chip.bf16_flops,
        "watts": target.chip.watts,
        "price": price,
        "memory_available": target.chip.memory_usable,
    }
