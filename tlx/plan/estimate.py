"""The analytic estimate: shapes, shardings and a roofline, in a second and without a compiler."""

from tlx.plan import footprint
from tlx.plan.footprint import Program, RunConfig
from tlx.plan.links import network_seconds
from tlx.plan.result import Plan, chip_figures, tokens_per_step
from tlx.plan.target import Target
from tlx.plan.traffic import least_traffic


def estimate(config: RunConfig, target: Target, price: float | None = None, traced: bool = True) -> Plan:
    """Raises ConfigError where the config does not divide over the target's devices.

    traced: see footprint.abstract_program; where many layouts are compared it is left out.

    The step time is a bound from below: the longest of the matrix products at the chip's peak, the least
    traffic with its memory, and the least traffic between chips, each as if it hid the other two.
    """
    work = footprint.step_flops(config)
    with footprint.traced_for(target):
        made = footprint.abstract_program(config, target, traced)
        memory = memory_parts(config, made)
        traffic = least_traffic(config, made)
    mesh, chip = dict(made.mesh.shape), target.chip
    memory = {part: size * chip.devices for part, size in memory.items()}
    times = {
        "compute": work.hardware_flops / (target.num_chips * chip.bf16_flops) * 1e3,
        "memory": _memory_moved(config, memory) / chip.memory_bandwidth * 1e3,
        "network": network_seconds(traffic, mesh, target) * 1e3,
    }
    step = max(times.values())
    return Plan(
        target=target.text,
        method="analytic",
        mesh=mesh,
        fits=memory["total"] <= chip.memory_usable,
        parameters=footprint.count_parameters(made, config),
        memory=memory,
        work=work,
        flops_compiled=None,
        collectives=traffic,
        collectives_least=traffic,
        times=times,
        step_ms=step,
        step_ms_without_kernels=step,
        tokens_per_step=tokens_per_step(config, made.batch),
        steps=config.train.steps,
        notes=("a roofline: the step cannot be faster; how much slower it is a compiler must say",),
        **chip_figures(target, price),
    )


def memory_parts(config: RunConfig, made: Program) -> dict[str, int]:
    """Bytes on one device, and their total at the step's fullest moment.

    Parameters, optimizer state, carry and batch are exact. Activations are what the forward pass keeps;
    working memory is one layer's as if nothing were recomputed, two layers' gathered kernels, and the
    logits of a piece of the loss.
    """
    parts = {
        "parameters": footprint.device_bytes((made.state.params, made.state.frozen)),
        "optimizer": footprint.device_bytes(made.state.opt_state),
        "carry": footprint.device_bytes(made.state.carry),
        "batch": footprint.device_bytes(made.batch),
        "gradients": footprint.device_bytes(made.state.params),
        "activations": footprint.residual_bytes(config, made),
        "temporaries": _working(config, made),
    }
    return parts | {"total": sum(parts.values())}


def _working(config: RunConfig, made: Program) -> int:
    layers = config.model.num_layers + (
        config.model.decoder_layers if config.model.kind == "encoder_decoder" else 0
    )
    whole = footprint.residual_bytes(footprint.with_execution(config, remat="none"), made)
    cast = footprint.device_bytes((made.state.params, made.state.frozen)) * made.mesh.shape["fsdp"] // 2
    return whole // layers + 2 * cast // layers


def _memory_moved(config: RunConfig, memory: dict[str, int]) -> float:
    """Bytes that a chip reads and writes at least: the state in and out, gradients and activations too."""
    state = memory["parameters"] + memory["optimizer"] + memory["carry"]
    return 2 * (state + memory["gradients"] + memory["activations"] * config.train.microbatches)
