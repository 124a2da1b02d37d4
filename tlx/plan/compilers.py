"""Compiling for a target in a process of its own, by a Python that has the target's compiler."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any, NamedTuple

from tlx.base.config import to_dict
from tlx.base.errors import ConfigError
from tlx.plan.compiled import CompiledFacts
from tlx.plan.footprint import RunConfig
from tlx.plan.target import Target

# Packages that a target's compiler is, and how they are installed.
_PACKAGES = {
    "tpu": (("libtpu",), "pip install 'tlx-lm[tpu]'"),
    "gpu": (("jax_plugins.xla_cuda13", "nvidia.cudnn"), "pip install 'tlx-lm[plan-gpu]'"),
    "cpu": ((), ""),
}
PYTHON = {"tpu": "TLX_TPU_PYTHON", "gpu": "TLX_GPU_PYTHON", "cpu": "TLX_CPU_PYTHON"}


class TooLarge(NamedTuple):
    """The compiler found no place for the program. needed: bytes of a device; None where it did not say."""

    message: str
    needed: int | None


def compiler_python(target: Target, given: str | None = None) -> str | None:
    """The Python that compiles for the target: as given, as the environment says, or this one.

    None where none of them is set and this Python has no such compiler.
    """
    asked = given or os.environ.get(PYTHON[target.platform])
    if asked:
        if not pathlib.Path(asked).is_file():
            raise ConfigError(f"{asked!r}, the Python to compile for {target.platform}, is no file")
        return asked
    return sys.executable if all(map(_has, _PACKAGES[target.platform][0])) else None


def how_to_install(target: Target) -> str:
    """What to type to have the target's compiler."""
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
    """The facts of the run's own step. `keep`: a file for the optimised module's text.

    Raises ConfigError for what the compiling process found wrong with the config, RuntimeError where it
    broke.
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
        found: dict[str, Any] = json.loads(answer.read_text())
    if "error" in found:
        raise ConfigError(found["error"])
    return (
        TooLarge(found["memory"], found["needed"]) if "memory" in found else CompiledFacts(**found["facts"])
    )


def _environment(target: Target) -> dict[str, str]:
    """No device is looked for, and the compiler takes the target for granted."""
    mine = {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "2"}
    if target.platform == "tpu":
        cores = 2 if target.chip.name in ("v4", "v5p") else 1
        mine |= {
            "TPU_SKIP_MDS_QUERY": "1",
            "TPU_ACCELERATOR_TYPE": f"{target.chip.accelerator_type}-{target.num_chips * cores}",
            "TPU_WORKER_HOSTNAMES": "localhost",
            "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        }
    if target.platform == "gpu":  # no device to time tiles on, and those of its Triton fit not every product
        flags = os.environ.get("XLA_FLAGS", "")
        mine["XLA_FLAGS"] = f"{flags} --xla_gpu_enable_triton_gemm=false".strip()
    if target.platform == "cpu":
        mine["JAX_NUM_CPU_DEVICES"] = str(target.num_devices)
    root = pathlib.Path(__file__).parents[2]
    if (root / "pyproject.toml").is_file():  # a checkout: the other Python need not have tlx itself
        mine["PYTHONPATH"] = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    return os.environ | mine


def _has(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        return False
