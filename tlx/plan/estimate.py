"""The analytic estimate: shapes, shardings and a roofline, in a second and without a compiler."""

from tlx.plan import footprint, rollout
from tlx.plan.footprint import Program, RunConfig
from tlx.plan.links import network_seconds
from tlx.plan.result import Plan, chip_figures, tokens_per_step
from tlx.plan.storage import checkpoint_costs
from tlx.plan.target import Target
from tlx.plan.traffic import least_traffic


def estimate(config: RunConfig, target: Target, price: float | None = None, traced: bool = True) -> Plan:
    """Estimate memory and step time of a run on a target.

    The step time is a lower bound: the longest of the matrix products at the chip's peak, the least memory
    traffic, and the least traffic between chips, as if each hid the other two.

    Args:
        config: Checked config.
        target: Hardware that is planned for.
        price: Of a chip for an hour; None leaves out the cost.
        traced: See footprint.abstract_program; False where many layouts are compared.

    Returns:
        The plan, its method "analytic".

    Raises:
        ConfigError: Where the config does not divide over the target's devices.
    """
    work = footprint.step_flops(config)
    with footprint.traced_for(target):
        program = footprint.abstract_program(config, target, traced)
        memory = memory_parts(config, program)
        traffic = least_traffic(config, program)
    mesh = dict(program.mesh.shape)
    chip = target.chip
    memory = {part: size * chip.devices for part, size in memory.items()}
    times = {
        "compute": work.hardware_flops / (target.num_chips * chip.bf16_flops) * 1e3,
        "memory": _memory_traffic(config, memory) / chip.memory_bandwidth * 1e3,
        "network": network_seconds(traffic, mesh, target) * 1e3,
    }
    step_ms = max(times.values())
    notes = ("a roofline: the step cannot be faster; how much slower it is a compiler must say",)
    models = {}
    if rollout.is_rollout(config):
        traffic_per_update = _memory_traffic(config, memory)
        times = rollout.phases(config, target, program, work, traffic_per_update).times()
        step_ms = sum(times.values())
        work = rollout.all_updates(config, work)
        models = {name: size * chip.devices for name, size in rollout.model_bytes(program).items()}
    return Plan(
        target=target.text,
        method="analytic",
        mesh=mesh,
        fits=memory["total"] <= chip.memory_usable,
        parameters=footprint.count_parameters(program, config),
        memory=memory,
        work=work,
        flops_compiled=None,
        collectives=traffic,
        collectives_least=traffic,
        times=times,
        step_ms=step_ms,
        step_ms_without_kernels=step_ms,
        tokens_per_step=tokens_per_step(program.batch),
        steps=config.train.steps,
        checkpoint=checkpoint_costs(program, target),
        notes=notes,
        models=models,
        **chip_figures(target, price),
    )


def memory_parts(config: RunConfig, program: Program) -> dict[str, int]:
    """Return bytes on one device by part, and their total at the step's peak.

    Parameters, optimizer state, carry and batch are exact. Activations are the residuals of the forward pass.
    Temporaries are one layer's residuals without rematerialisation and two layers' gathered kernels.
    """
    state = program.state
    parts = {
        "parameters": footprint.device_bytes((state.params, state.frozen)),
        "optimizer": footprint.device_bytes((state.opt_state, state.extra)),
        "carry": footprint.device_bytes(state.carry),
        "batch": footprint.device_bytes(program.batch),
        "gradients": footprint.device_bytes(state.params),
        "activations": footprint.residual_bytes(config, program),
        "temporaries": _temporaries(config, program),
    }
    return parts | {"total": sum(parts.values())}


def _temporaries(config: RunConfig, program: Program) -> int:
    """Return the bytes of one layer's residuals and of two layers' kernels, gathered in half their width."""
    layers = config.model.num_layers
    if config.model.kind == "encoder_decoder":
        layers += config.model.decoder_layers
    residuals = footprint.residual_bytes(footprint.with_execution(config, remat="none"), program)
    params = (program.state.params, program.state.frozen)
    gathered = footprint.device_bytes(params) * program.mesh.shape["fsdp"] // 2
    return residuals // layers + 2 * gathered // layers


def _memory_traffic(config: RunConfig, memory: dict[str, int]) -> float:
    """Return the least bytes that a chip reads and writes: state, gradients and activations, in and out."""
    state = memory["parameters"] + memory["optimizer"] + memory["carry"]
    return 2 * (state + memory["gradients"] + memory["activations"] * config.train.microbatches)
