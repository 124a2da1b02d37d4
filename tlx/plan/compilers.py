"""Compilation for a target in a process of its own, by a Python that has the target's compiler."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

from tlx.base.compiler_settings import FLAG_VARIABLES, Hardware, compiler_flags
from tlx.base.config import to_dict
from tlx.base.errors import ConfigError
from tlx.plan.compiled import CompiledFacts
from tlx.plan.footprint import RunConfig
from tlx.plan.target import Target

# Modules of a target's compiler, and the command that installs them.
_PACKAGES = {
    "tpu": (("libtpu",), "pip install 'tlx-lm[tpu]'"),
    "gpu": (("jax_plugins.xla_cuda13", "nvidia.cudnn"), "pip install 'tlx-lm[plan-gpu]'"),
    "cpu": ((), ""),
}
# Environment variable that names the Python with a target's compiler.
PYTHON = {"tpu": "TLX_TPU_PYTHON", "gpu": "TLX_GPU_PYTHON", "cpu": "TLX_CPU_PYTHON"}


class TooLarge(NamedTuple):
    """A program that needs more memory than the target has."""

    message: str
    """First line of the compiler's error."""
    needed: int | None
    """Bytes of a device that it needs; None where the compiler did not say."""


def compiler_python(target: Target, given: str | None = None) -> str | None:
    """Return the Python that compiles for the target: `given`, the environment's, or this one.

    None where neither is set and this Python has no such compiler; ConfigError where it is no file.
    """
    named = given or os.environ.get(PYTHON[target.platform])
    if named:
        if not pathlib.Path(named).is_file():
            raise ConfigError(f"{named!r}, the Python to compile for {target.platform}, is no file")
        return named
    return sys.executable if all(map(_has, _PACKAGES[target.platform][0])) else None


def how_to_install(target: Target) -> str:
    """Return a sentence on how to install the target's compiler."""
    _, command = _PACKAGES[target.platform]
    return (
        f"no {target.platform.upper()} compiler is installed here: {command}, or name a Python that has one "
        f"in --compiler-python or {PYTHON[target.platform]} (it runs on any Linux machine, without a device)"
    )


def compile_for_target(
    config: RunConfig,
    target: Target,
    python: str,
    allow: Sequence[str] = (),
    keep: pathlib.Path | None = None,
) -> CompiledFacts | TooLarge:
    """Compile the run's own step for the target, and return its facts.

    Args:
        config: Checked config.
        target: Hardware that it is compiled for.
        python: Python that has the compiler.
        allow: Packages outside tlx whose code the config may name.
        keep: File for the optimised module's text; None keeps none.

    Returns:
        The facts, or TooLarge where the compiler had too little memory.

    Raises:
        ConfigError: For what the compiling process found wrong with the config.
        RuntimeError: Where the compiling process broke.
    """
    request = {
        "config": to_dict(config),
        "target": target.text,
        "allow": list(allow),
        "keep": str(keep.absolute()) if keep else None,
    }
    with tempfile.TemporaryDirectory(prefix="tlx-plan-") as folder:
        answer = pathlib.Path(folder) / "answer.json"
        process = subprocess.run(
            [python, "-m", "tlx.plan.worker", str(answer)],
            input=json.dumps(request),
            env=_environment(target),
            text=True,
            capture_output=True,
        )
        if process.returncode or not answer.exists():
            raise RuntimeError(
                f"compiling for {target.text} failed (exit {process.returncode}):\n{process.stderr[-3000:]}"
            )
        reply: dict[str, Any] = json.loads(answer.read_text())
    if "error" in reply:
        raise ConfigError(reply["error"])
    if "memory" in reply:
        return TooLarge(reply["memory"], reply["needed"])
    return CompiledFacts(**reply["facts"])


def _environment(target: Target) -> dict[str, str]:
    """Return an environment in which no device is looked for and the compiler assumes the target.

    The compiler has the flags with which the launchers start a run, before those of the user's own environment.
    """
    variables = {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "2"}
    hardware: Hardware = cast(Hardware, target.platform)
    if target.platform == "tpu" and target.slices > 1:
        hardware = "tpu-slices"
    name = FLAG_VARIABLES[hardware]
    flags = f"{compiler_flags(hardware, target.chip.name)} {os.environ.get(name, '')}"
    if target.platform == "tpu":
        cores = 2 if target.chip.name in ("v4", "v5p") else 1
        variables |= {
            "TPU_SKIP_MDS_QUERY": "1",
            "TPU_ACCELERATOR_TYPE": f"{target.chip.accelerator_type}-{target.num_chips * cores}",
            "TPU_WORKER_HOSTNAMES": "localhost",
            "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        }
    if target.platform == "gpu":
        # Without a device tiles cannot be timed, and Triton's default ones do not fit every product.
        flags += " --xla_gpu_enable_triton_gemm=false"
    if flags.strip():
        variables[name] = flags.strip()
    if target.platform == "cpu":
        variables["JAX_NUM_CPU_DEVICES"] = str(target.num_devices)
    root = pathlib.Path(__file__).parents[2]
    if (root / "pyproject.toml").is_file():
        # A checkout: the other Python need not have tlx itself.
        variables["PYTHONPATH"] = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    return os.environ | variables


def _has(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        return False
