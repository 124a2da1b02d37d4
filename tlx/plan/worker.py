"""The process that compiles: reads a request as JSON from stdin, writes the facts to a file.

tlx.plan.compilers starts it with the environment that the target's compiler needs, by a Python that has it.
"""

import json
import pathlib
import re
import sys
from importlib import metadata
from typing import Any

import jax
from jax.experimental import topologies

from tlx import parallel
from tlx.base.errors import UserError
from tlx.base.platform import compile_for
from tlx.plan.compiled import CompiledFacts, read
from tlx.plan.target import Target, parse_target
from tlx.run.checks import resolve
from tlx.run.program import build_program
from tlx.run.spec import spec_before_tokenizer

# How the compilers of TPUs and GPUs say that a program is too large.
_USED = re.compile(r"Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?)")
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_PACKAGES = {"tpu": "libtpu", "gpu": "jax-cuda13-plugin", "cpu": "jaxlib"}


def main() -> int:
    """Write {"facts": ...}, {"memory": message, "needed": bytes} or {"error": message} to argv[1]."""
    request = json.load(sys.stdin)
    try:
        answer: dict[str, Any] = {"facts": compile_step(request)._asdict()}
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        answer = {"memory": str(error).splitlines()[0], "needed": _needed(str(error))}
    except UserError as error:
        answer = {"error": str(error)}
    pathlib.Path(sys.argv[1]).write_text(json.dumps(answer))
    return 0


def compile_step(request: dict[str, Any]) -> CompiledFacts:
    """Compile the trainer's own step for the target's devices, and return its facts."""
    target = parse_target(request["target"])
    config = resolve(request["config"], allow=tuple(request["allow"]))
    devices = _devices(target)
    if len(devices) != target.num_devices:
        raise UserError(
            f"--target={target.text!r}: its compiler shows {len(devices)} devices, not {target.num_devices}"
        )
    with compile_for(target.platform, devices[0].device_kind):
        mesh = parallel.make_mesh(config.mesh, devices)
        program = build_program(config, spec_before_tokenizer(config), mesh)
        with program.use():
            step: Any = program.step
            compiled = step.lower(program.state, program.batch).compile()
    if request.get("keep"):
        pathlib.Path(request["keep"]).write_text(compiled.as_text())
    return read(compiled, dict(mesh.shape), _compiler(target))


def _devices(target: Target) -> list[Any]:
    """Return the target's devices, simulated or described."""
    if target.platform == "cpu":
        return jax.devices()[: target.num_devices]
    sides = "x".join(map(str, target.shape))
    if target.platform == "tpu":
        options: dict[str, Any] = {"num_slices": target.slices} if target.slices > 1 else {}
        if target.chip.name == "v4":  # both cores of a chip as one device, as JAX shows them there
            options["chip_config_name"] = "megacore"
        return topologies.get_topology_desc(f"{target.chip.name}:{sides}", "tpu", **options).devices
    description = pathlib.Path(__file__).with_name("gpus") / f"{target.chip.name}.txtpb"
    return topologies.get_topology_desc(
        platform="cuda", topology=f"1x{sides}", target_config=description.read_text()
    ).devices


def _compiler(target: Target) -> str:
    """Return the name and version of the target's compiler."""
    package = _PACKAGES[target.platform]
    return f"{target.platform} compiler of {package} {metadata.version(package)}, jax {jax.__version__}"


def _needed(message: str) -> int | None:
    """Return the bytes that a program needs by the compiler's message, where it names them."""
    match = _USED.search(message)
    return round(float(match[1]) * _UNITS[match[2]]) if match else None


if __name__ == "__main__":
    sys.exit(main())
