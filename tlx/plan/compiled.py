"""What a compiled step says of itself: memory, FLOPs, traffic, the schedule's cycles, the kernels."""

import collections
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from tlx.plan import collectives as wires
from tlx.plan import hlo
from tlx.plan.operations import matmul_flops


class CompiledFacts(NamedTuple):
    """Of one device and one step; plain values, so that they pass between processes as JSON."""

    compiler: str
    argument_bytes: int
    output_bytes: int
    alias_bytes: int  # of the output, that are the arguments' own
    temp_bytes: int
    code_bytes: int
    matmul_flops: int
    collectives: dict[str, dict[str, float]]
    collectives_waited_for: dict[str, dict[str, float]]  # those of them that nothing runs beside
    cycles: int  # of the schedule, as the TPU compiler estimates them; elsewhere 0
    kernels: dict[str, int]  # custom kernels: runs in a step
    operations: dict[str, int]  # opcodes of the module as it is written: the golden files' counts
    costs: dict[str, list[int]] = {}  # of kernels that state theirs: [FLOPs, bytes] in a step

    @property
    def total_bytes(self) -> int:
        """What a device must hold."""
        return self.argument_bytes + self.output_bytes - self.alias_bytes + self.temp_bytes + self.code_bytes


def read(compiled: Any, mesh: Mapping[str, int], compiler: str) -> CompiledFacts:
    """The facts of `jax.stages.Compiled`; `mesh` is {axis: size} in the order of its devices."""
    module = hlo.parse(compiled.as_text())
    stats, found = compiled.memory_analysis(), wires.collectives(module, mesh)
    return CompiledFacts(
        compiler=compiler,
        argument_bytes=stats.argument_size_in_bytes,
        output_bytes=stats.output_size_in_bytes,
        alias_bytes=stats.alias_size_in_bytes,
        temp_bytes=stats.temp_size_in_bytes,
        code_bytes=stats.generated_code_size_in_bytes,
        matmul_flops=matmul_flops(module),
        collectives=wires.by_kind_and_axis(found),
        collectives_waited_for=wires.by_kind_and_axis([one for one in found if not one.overlapped]),
        cycles=scheduled_cycles(module),
        kernels=kernels(module),
        operations=operations(module),
        costs=stated_costs(module),
    )


def scheduled_cycles(module: hlo.HloModule) -> int:
    """The sum of the schedule's estimates, each times how often its line runs; custom kernels have none."""
    times = hlo.execution_counts(module)
    return sum(
        times[name].scheduled * sum(map(hlo.estimated_cycles, instructions))
        for name, instructions in module.computations.items()
    )


def kernels(module: hlo.HloModule) -> dict[str, int]:
    """{name of a custom kernel: runs in a step}."""
    found = collections.Counter()
    for name, times, _ in _kernel_calls(module):
        found[name] += times
    return dict(found)


def stated_costs(module: hlo.HloModule) -> dict[str, list[int]]:
    """{name of a custom kernel: [FLOPs, bytes] of its runs in a step}: as written with it, or cuDNN's."""
    found = {}
    for name, times, instruction in _kernel_calls(module):
        if cost := hlo.stated_cost(instruction) or _cudnn_cost(instruction):
            total = found.setdefault(name, [0, 0])
            total[:] = [total[0] + times * cost[0], total[1] + times * cost[1]]
    return found


def _cudnn_cost(instruction: hlo.Instruction) -> tuple[int, int] | None:
    """(FLOPs, bytes) of a call of cuDNN's attention, nothing skipped; None of another kernel.

    Of what it reads the first are queries [B, T, N, H] and keys [B, S, G, H].
    """
    target = hlo.target_of(instruction)
    if not target.startswith("__cudnn$fmha"):
        return None
    read = hlo.arrays(hlo.attribute(instruction, "operand_layout_constraints"))
    query, key = read[0][1], read[1][1]
    products = 5 if target.endswith("Backward") else 2
    moved = sum(hlo.num_bytes(*array) for array in [*read, *hlo.arrays(instruction.shape)])
    return products * 2 * math.prod(query) * key[1], moved


def _kernel_calls(module: hlo.HloModule) -> Iterator[tuple[str, int, hlo.Instruction]]:
    """(name, runs in a step, instruction) of every call of a custom kernel."""
    times = hlo.execution_counts(module)
    for name, instructions in module.computations.items():
        for instruction in instructions:
            if instruction.opcode != "custom-call" or not times[name].times:
                continue
            target = hlo.target_of(instruction)
            if target == "tpu_custom_call" or target.startswith("__cudnn"):
                kernel = target if target.startswith("__") else re.sub(r"[.\d]+$", "", instruction.name)
                yield kernel, times[name].times, instruction


def operations(module: hlo.HloModule) -> dict[str, int]:
    """{opcode: instructions with it}, what only names or moves values left out."""
    quiet = ("parameter", "constant", "get-tuple-element", "tuple", "bitcast")
    found = collections.Counter(
        instruction.opcode
        for instructions in module.computations.values()
        for instruction in instructions
        if instruction.opcode not in quiet
    )
    return dict(sorted(found.items()))
