"""A plan from what a compiler said: its memory, its schedule, its traffic."""

import dataclasses

from tlx.plan.compiled import CompiledFacts
from tlx.plan.compilers import TooLarge
from tlx.plan.footprint import RunConfig
from tlx.plan.links import network_seconds
from tlx.plan.result import Plan
from tlx.plan.target import Target

# Matrix products of an attention kernel's pass, each 2 x rows x heads x queries x keys x head width.
_PRODUCTS = {"fwd": 2, "dkv": 4, "dq": 3}


def measured(analytic: Plan, facts: CompiledFacts, config: RunConfig, target: Target) -> Plan:
    """The analytic plan with everything replaced that the compiler knows better.

    TPU: the step is the schedule's cycles, the kernels at the chip's peak (only what their mask shows), and
    the collectives that nothing runs beside, at the links' rate; at least as long as all collectives
    together. Elsewhere, where no compiler estimates cycles: a roofline with the compiled module's FLOPs and
    traffic.
    """
    devices = target.chip.devices
    times = {
        "kernels": _kernel_seconds(facts, config, target) * 1e3,
        "network": network_seconds(facts.collectives, analytic.mesh, target) * 1e3,
        "network_waited_for": network_seconds(facts.collectives_waited_for, analytic.mesh, target) * 1e3,
    }
    if target.platform == "tpu":
        times["schedule"] = facts.cycles / target.chip.clock_hz * 1e3
        without = times["schedule"]
        step = max(without + times["kernels"] + times["network_waited_for"], times["network"])
        note = (
            "the schedule's cycles, kernels at peak, and collectives that nothing hides, at the links' rate"
        )
    else:
        hidden_from_xla = times["kernels"]
        times["compute"] = facts.matmul_flops / target.device_flops * 1e3 + hidden_from_xla
        times["memory"] = analytic.times["memory"]
        step = max(times["compute"], times["memory"], times["network"])
        without = max(times["compute"] - hidden_from_xla, times["memory"], times["network"])
        note = "a roofline of the compiled module: the step cannot be faster"
    memory = _memory(analytic, facts, devices)
    return dataclasses.replace(
        analytic,
        method=facts.compiler,
        fits=memory["total"] <= analytic.memory_available,
        memory=memory,
        flops_compiled=facts.matmul_flops * target.num_devices,
        collectives=_per_chip(facts.collectives, devices),
        times=times,
        step_ms=step,
        step_ms_without_kernels=without,
        notes=(note,),
    )


def too_large(analytic: Plan, facts: TooLarge, target: Target) -> Plan:
    """What the compiler found no place for: its total, where it said one, with the estimate's times."""
    total = max(facts.needed or 0, analytic.memory_available // target.chip.devices + 1)
    memory = analytic.memory | {"total": total * target.chip.devices}
    note = f"the {target.platform} compiler found no place for it ({facts.message}); times are the estimate's"
    return dataclasses.replace(analytic, fits=False, memory=memory, notes=(note, *analytic.notes))


def _memory(analytic: Plan, facts: CompiledFacts, devices: int) -> dict[str, int]:
    """The compiler's total; its temporaries are told apart as far as the estimate knows what they are."""
    known = {part: analytic.memory[part] for part in ("parameters", "optimizer", "carry", "batch")}
    left = facts.total_bytes * devices - sum(known.values())
    for part in ("gradients", "activations"):
        known[part] = max(0, min(analytic.memory[part], left))
        left -= known[part]
    return known | {"temporaries": max(0, left), "total": facts.total_bytes * devices}


def _kernel_seconds(facts: CompiledFacts, config: RunConfig, target: Target) -> float:
    """Of the attention kernels on one device, at peak, over what they work through.

    Splash skips what the mask hides. A kernel whose cost is known takes the longer of its products and its
    traffic.
    """
    block = config.model.block("decoder" if config.model.kind == "decoder" else "encoder")
    length, rows = config.data.sequence_length, config.train.batch_size // config.train.microbatches
    window = block.attention.window
    visible = length * (length + 1) / 2 if block.causal else length * length
    if window:
        visible = min(visible, length * (window if block.causal else 2 * window - 1))
    product = 2 * rows * block.attention.num_heads * visible * block.head_dim / target.num_devices
    flops, seconds, bandwidth = 0.0, 0.0, target.chip.memory_bandwidth / target.chip.devices
    for name, times in facts.kernels.items():
        if name in facts.costs:
            own, traffic = facts.costs[name]
            seconds += max(own / target.device_flops, traffic / bandwidth)
            continue
        passes = [count for part, count in _PRODUCTS.items() if part in name]
        flops += times * product * (passes[0] if passes else 2)
    return seconds + flops / target.device_flops


def _per_chip(traffic: dict[str, dict[str, float]], devices: int) -> dict[str, dict[str, float]]:
    return {kind: {axis: size * devices for axis, size in axes.items()} for kind, axes in traffic.items()}
