"""A plan from a compiler's facts: its memory, its schedule, its traffic."""

import dataclasses

from tlx.plan.compiled import CompiledFacts
from tlx.plan.compilers import TooLarge
from tlx.plan.footprint import RunConfig
from tlx.plan.links import network_seconds
from tlx.plan.result import Plan
from tlx.plan.target import Target

# Matrix products of an attention kernel's passes, 2 x rows x heads x queries x keys x head size FLOPs each.
_PRODUCTS = {"fwd": 2, "dkv": 4, "dq": 3}


def measured(analytic: Plan, facts: CompiledFacts, config: RunConfig, target: Target) -> Plan:
    """Replace in an analytic plan what the compiler knows better.

    On a TPU the step takes the schedule's cycles, the kernels at the chip's peak (only what their mask shows)
    and the collectives that nothing overlaps, at the links' bandwidth; at least as long as all collectives
    together. Elsewhere no compiler estimates cycles: a roofline with the compiled module's FLOPs and traffic.

    Args:
        analytic: The estimate of the same config and target.
        facts: What the compiler said.
        config: Checked config.
        target: Hardware that it was compiled for.

    Returns:
        The plan, its method the compiler's name.
    """
    devices = target.chip.devices
    kernels_ms = _kernel_seconds(facts, config, target) * 1e3
    times = {
        "kernels": kernels_ms,
        "network": network_seconds(facts.collectives, analytic.mesh, target) * 1e3,
        "network_waited_for": network_seconds(facts.collectives_waited_for, analytic.mesh, target) * 1e3,
    }
    if target.platform == "tpu":
        times["schedule"] = facts.cycles / target.chip.clock_hz * 1e3
        without_kernels = times["schedule"]
        step_ms = max(without_kernels + kernels_ms + times["network_waited_for"], times["network"])
        note = (
            "the schedule's cycles, kernels at peak, and collectives that nothing hides, at the links' rate"
        )
    else:
        times["compute"] = facts.matmul_flops / target.device_flops * 1e3 + kernels_ms
        # Of a rollout the estimate has one bound for all of its training.
        times["memory"] = analytic.times.get("memory", 0.0)
        step_ms = max(times["compute"], times["memory"], times["network"])
        without_kernels = max(times["compute"] - kernels_ms, times["memory"], times["network"])
        note = "a roofline of the compiled module: the step cannot be faster"
    if analytic.models:
        # What is compiled is the updates; the answers are sampled and scored before.
        before = {name: analytic.times[name] for name in ("sampling", "scoring")}
        times |= before | {"training": step_ms}
        step_ms += sum(before.values())
        note += "; sampling and scoring are the estimate's lower bounds"
    memory = _memory(analytic, facts, devices)
    return dataclasses.replace(
        analytic,
        method=facts.compiler,
        fits=memory["total"] <= analytic.memory_available,
        memory=memory,
        flops_compiled=facts.matmul_flops * target.num_devices,
        collectives=_per_chip(facts.collectives, devices),
        times=times,
        step_ms=step_ms,
        step_ms_without_kernels=without_kernels,
        notes=(note,),
    )


def too_large(analytic: Plan, facts: TooLarge, target: Target) -> Plan:
    """Return the plan of a program for which the compiler had too little memory.

    Args:
        analytic: The estimate of the same config and target, whose times are kept.
        facts: The compiler's message.
        target: Hardware that it was compiled for.

    Returns:
        A plan that does not fit, with the compiler's total where it said one.
    """
    total = max(facts.needed or 0, analytic.memory_available // target.chip.devices + 1)
    memory = analytic.memory | {"total": total * target.chip.devices}
    note = f"the {target.platform} compiler found no place for it ({facts.message}); times are the estimate's"
    return dataclasses.replace(analytic, fits=False, memory=memory, notes=(note, *analytic.notes))


def _memory(analytic: Plan, facts: CompiledFacts, devices: int) -> dict[str, int]:
    """Return the compiler's total, its temporaries split as far as the estimate knows what they are."""
    memory = {part: analytic.memory[part] for part in ("parameters", "optimizer", "carry", "batch")}
    left = facts.total_bytes * devices - sum(memory.values())
    for part in ("gradients", "activations"):
        memory[part] = max(0, min(analytic.memory[part], left))
        left -= memory[part]
    return memory | {"temporaries": max(0, left), "total": facts.total_bytes * devices}


def _kernel_seconds(facts: CompiledFacts, config: RunConfig, target: Target) -> float:
    """Return the time of the attention kernels on one device, at peak.

    Splash attention skips what the mask hides. A kernel with a stated cost takes the longer of its products
    and its memory traffic.
    """
    block = config.model.block("decoder" if config.model.kind == "decoder" else "encoder")
    length = config.data.sequence_length
    rows = config.train.batch_size // config.train.microbatches
    window = block.attention.window
    visible = length * (length + 1) / 2 if block.causal else length * length
    if window:
        visible = min(visible, length * (window if block.causal else 2 * window - 1))
    product = 2 * rows * block.attention.num_heads * visible * block.head_dim / target.num_devices
    bandwidth = target.chip.memory_bandwidth / target.chip.devices
    flops = 0.0
    seconds = 0.0
    for name, times in facts.kernels.items():
        if name in facts.costs:
            stated_flops, stated_bytes = facts.costs[name]
            seconds += max(stated_flops / target.device_flops, stated_bytes / bandwidth)
            continue
        passes = [count for part, count in _PRODUCTS.items() if part in name]
        flops += times * product * (passes[0] if passes else 2)
    return seconds + flops / target.device_flops


def _per_chip(traffic: dict[str, dict[str, float]], devices: int) -> dict[str, dict[str, float]]:
    return {kind: {axis: size * devices for axis, size in axes.items()} for kind, axes in traffic.items()}
