"""Facts of a compiled step: memory, FLOPs, traffic, the schedule's cycles, the kernels."""

import collections
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from tlx.plan import collectives as wires
from tlx.plan import hlo
from tlx.plan.operations import matmul_flops


class CompiledFacts(NamedTuple):
    """Facts of one device and one step; plain values, so that they pass between processes as JSON."""

    compiler: str
    """Name and version of the compiler."""
    argument_bytes: int
    """Bytes of the arguments."""
    output_bytes: int
    """Bytes of the results."""
    alias_bytes: int
    """Bytes of the results that reuse donated arguments."""
    temp_bytes: int
    """Bytes of temporaries."""
    code_bytes: int
    """Bytes of the program."""
    matmul_flops: int
    """FLOPs of matrix products, custom kernels left out."""
    collectives: dict[str, dict[str, float]]
    """{kind: {mesh axes: bytes sent}}."""
    collectives_waited_for: dict[str, dict[str, float]]
    """Those of them that nothing overlaps."""
    cycles: int
    """Cycles of the schedule as the TPU compiler estimates them; elsewhere 0."""
    kernels: dict[str, int]
    """{custom kernel: executions}."""
    operations: dict[str, int]
    """{opcode: instructions of the module}; the golden files' counts."""
    costs: dict[str, list[int]] = {}
    """{custom kernel that states its cost: [FLOPs, bytes]}."""

    @property
    def total_bytes(self) -> int:
        """Bytes that a device must hold."""
        return self.argument_bytes + self.output_bytes - self.alias_bytes + self.temp_bytes + self.code_bytes


def read(compiled: Any, mesh: Mapping[str, int], compiler: str) -> CompiledFacts:
    """Return the facts of a compiled step.

    Args:
        compiled: jax.stages.Compiled.
        mesh: {axis: size} in the order of its devices.
        compiler: Name and version of the compiler.

    Returns:
        The facts.
    """
    module = hlo.parse(compiled.as_text())
    stats = compiled.memory_analysis()
    collectives = wires.collectives(module, mesh)
    return CompiledFacts(
        compiler=compiler,
        argument_bytes=stats.argument_size_in_bytes,
        output_bytes=stats.output_size_in_bytes,
        alias_bytes=stats.alias_size_in_bytes,
        temp_bytes=stats.temp_size_in_bytes,
        code_bytes=stats.generated_code_size_in_bytes,
        matmul_flops=matmul_flops(module),
        collectives=wires.by_kind_and_axis(collectives),
        collectives_waited_for=wires.by_kind_and_axis([each for each in collectives if not each.overlapped]),
        cycles=scheduled_cycles(module),
        kernels=kernels(module),
        operations=operations(module),
        costs=stated_costs(module),
    )


def scheduled_cycles(module: hlo.HloModule) -> int:
    """Sum the schedule's estimates, each times the executions of its line; custom kernels have none."""
    times = hlo.execution_counts(module)
    return sum(
        times[name].scheduled * sum(map(hlo.estimated_cycles, instructions))
        for name, instructions in module.computations.items()
    )


def kernels(module: hlo.HloModule) -> dict[str, int]:
    """Return {name of a custom kernel: executions in a step}."""
    counts = collections.Counter()
    for name, times, _ in _kernel_calls(module):
        counts[name] += times
    return dict(counts)


def stated_costs(module: hlo.HloModule) -> dict[str, list[int]]:
    """Return {name of a custom kernel: [FLOPs, bytes] in a step}, as stated with it or counted (cuDNN's)."""
    costs: dict[str, list[int]] = {}
    for name, times, instruction in _kernel_calls(module):
        if cost := hlo.stated_cost(instruction) or _cudnn_cost(instruction):
            total = costs.setdefault(name, [0, 0])
            total[0] += times * cost[0]
            total[1] += times * cost[1]
    return costs


def _cudnn_cost(instruction: hlo.Instruction) -> tuple[int, int] | None:
    """Return (FLOPs, bytes) of a call of cuDNN's attention; None for another kernel.

    Its first operands are queries [B, T, N, H] and keys [B, S, G, H]. A causal kernel computes the keys up to
    each query, other masks hide what is computed.
    """
    target = hlo.target_of(instruction)
    if not target.startswith("__cudnn$fmha"):
        return None
    operands = hlo.arrays(hlo.attribute(instruction, "operand_layout_constraints") or "")
    query = operands[0][1]
    key = operands[1][1]
    products = 5 if target.endswith("Backward") else 2
    num_bytes = sum(hlo.num_bytes(*array) for array in [*operands, *hlo.arrays(instruction.shape)])
    keys_per_query = key[1]
    if re.search(r'"mask_type": ?"(PADDING_)?CAUSAL"', instruction.attributes):
        keys_per_query = (key[1] + 1) / 2
    return int(products * 2 * math.prod(query) * keys_per_query), num_bytes


def _kernel_calls(module: hlo.HloModule) -> Iterator[tuple[str, int, hlo.Instruction]]:
    """Yield (name, executions in a step, instruction) of every call of a custom kernel."""
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
    """Return {opcode: instructions with it}, without those that only name or move values."""
    quiet = ("parameter", "constant", "get-tuple-element", "tuple", "bitcast")
    counts = collections.Counter(
        instruction.opcode
        for instructions in module.computations.values()
        for instruction in instructions
        if instruction.opcode not in quiet
    )
    return dict(sorted(counts.items()))
