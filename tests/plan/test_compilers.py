"""The real compilers, where TLX_TPU_PYTHON and TLX_GPU_PYTHON name a Python that has one, as in .ci/run."""

import json
import math
import os
import re

import pytest

from tlx import cli
from tlx.cli.flags import load_config
from tlx.launch.settings import RunSettings, merged, variables
from tlx.plan.compiled import CompiledFacts
from tlx.plan.compilers import PYTHON, compile_for_target
from tlx.plan.target import parse_target
from tlx.run.checks import resolve

CONFIG = """
from tlx.run import base_config

def get_config(arg=""):
    config = base_config("clm")
    config.tokenizer.kind, config.data.sequence_length, config.train.batch_size = "bytes", 256, 32
    model = config.model
    model.width, model.num_layers, model.attention.num_heads, model.position.kind = 256, 2, 4, "rotary"
    model.execution.remat = "full"
    config.mesh.data, config.mesh.fsdp = 1, -1
    if arg == "large":
        model.width, model.num_layers, model.execution.remat = 8192, 64, "none"
    return config
"""

OTHERS = """
from tlx.run import base_config

def get_config(arg=""):
    config = base_config("SHAPE")
    config.tokenizer.kind, config.data.sequence_length, config.train.batch_size = "bytes", 512, 128
    model = config.model
    model.width, model.num_layers, model.attention.num_heads = 1024, 2, 16
    model.dropout = model.attention.dropout = model.feedforward.dropout = 0.0
    if "SHAPE" == "plm":
        config.objective.num_predict = 85
        model.position.kind = "relative_sinusoidal"
        model.block_layout = "post"
    else:
        model.position.kind, config.optimizer.name = "relative_bias", "adafactor"
        model.attention.num_heads = 64  # more than buckets: the table is split over its heads
    model.execution.remat = "attended+statistics"
    config.mesh.data, config.mesh.fsdp = 1, -1
    return config
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "model.py"
    path.write_text(CONFIG)
    return path


def planned(capsys, *words):
    """(exit code, the plan) of the real compiler; skipped where none is set up."""
    platform = next(word for word in words if word.startswith("--target=")).split("=")[1].split(":")[0]
    if platform != "cpu" and PYTHON[platform] not in os.environ:
        pytest.skip(f"{PYTHON[platform]} names no Python with the {platform} compiler")
    code = cli.main(["plan", "--method=compile", "--json", *words])
    return code, json.loads(capsys.readouterr().out)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["tpu:v5e:2x4", "gpu:h100:8", "cpu:8"])
def test_the_compiler_says_what_the_estimate_cannot(config, target, capsys):
    code, found = planned(capsys, f"--config={config}", f"--target={target}")
    assert code == 0 and found["fits"] and "compiler" in found["method"]
    assert found["flops_per_step_compiled"] > 0.5 * found["flops_per_step"]
    sent, least = found["collectives"], found["collectives_least"]
    gathered = sum(sum(axes.values()) for axes in sent.values())
    assert gathered > 0.8 * sum(least["all-gather"].values())
    assert 0 < found["mfu"] < 1 and found["step_ms"] >= found["step_ms_without_kernels"] > 0
    exact = ("parameters", "optimizer", "batch")
    assert all(found["memory"][part] > 0 for part in exact)
    if target.startswith("tpu"):
        assert found["times_ms"]["schedule"] > 0 and found["times_ms"]["kernels"] > 0  # splash attention


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["span_corruption", "plm"])
def test_biases_and_odd_lengths_on_gpus(shape, tmp_path, capsys):
    """T5's bias reaches cuDNN on each device; XLNet's 85 queries a row fit no tile of XLA's own."""
    path = tmp_path / "model.py"
    path.write_text(OTHERS.replace("SHAPE", shape))
    code, found = planned(capsys, f"--config={path}", "--target=gpu:h100:8")
    assert code == 0 and "compiler" in found["method"]
    assert found["flops_per_step_compiled"] > 0.5 * found["flops_per_step"]


@pytest.mark.slow
def test_a_module_for_gpus_keeps_what_it_needs_once(config, tmp_path):
    """No copy of the parameters; attention's output and statistics, so that its forward kernel runs once."""
    if PYTHON["gpu"] not in os.environ:
        pytest.skip(f"{PYTHON['gpu']} names no Python with the gpu compiler")
    path = tmp_path / "module.txt"
    values = load_config(str(config))
    values.mesh.fsdp = 1
    values.model.execution.remat = "query+key+value+attention"
    found = compile_for_target(
        resolve(values), parse_target("gpu:h100:1"), os.environ[PYTHON["gpu"]], keep=path
    )
    assert isinstance(found, CompiledFacts)
    module = path.read_text()
    written = re.findall(r"= f32\[2,([\d,]+)\]\S* dynamic-update-slice\(", module)
    sizes = [math.prod(map(int, dims.split(","))) for dims in written]
    # Gradients of query, key, value, output and the two matrices of the feed-forward network.
    assert sorted(size for size in sizes if size >= 256 * 256) == [256 * 256] * 4 + [256 * 1024] * 2
    calls = [line for line in module.splitlines() if 'custom_call_target="__cudnn$fmha' in line]
    assert sorted("Backward" in call for call in calls) == [False, True]
    assert all('"mask_type": "CAUSAL"' in call for call in calls)


@pytest.mark.slow
def test_what_the_tpu_compiler_finds_no_place_for(config, capsys):
    words = [f"--config={config}:large", "--target=tpu:v5e:2x4", "--config.train.batch_size=8"]
    code, found = planned(capsys, *words)
    assert code == 78 and not found["fits"]
    assert found["memory_bytes_per_chip"] > found["memory_bytes_available"]


@pytest.mark.slow
def test_without_the_compiler_it_says_what_to_install(config, capsys, monkeypatch):
    monkeypatch.delenv("TLX_GPU_PYTHON", raising=False)
    monkeypatch.setattr("tlx.plan.compilers._has", lambda package: False)
    words = ["plan", f"--config={config}", "--target=gpu:h100:8"]
    assert cli.main([*words, "--method=compile"]) == 64
    assert "pip install 'tlx-lm[plan-gpu]'" in capsys.readouterr().err
    assert cli.main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["method"] == "analytic" and "pip install" in " ".join(found["notes"])
    assert cli.main([*words, "--compiler-python=/no/python"]) == 64
    assert "is no file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("target", "variable", "hardware", "chip"),
    [
        ("tpu:v5e:2x4 x 2 slices", "LIBTPU_INIT_ARGS", "tpu-slices", "v5e"),
        ("tpu:v6e:2x4", "LIBTPU_INIT_ARGS", "tpu", "v6e"),
        ("gpu:h100:8", "XLA_FLAGS", "gpu", "h100"),
    ],
)
def test_a_plan_is_compiled_with_the_flags_of_a_run(
    target, variable, hardware, chip, config, tmp_path, monkeypatch
):
    """The user's own come after those of the table, so that they win."""
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\nenv > {tmp_path}/environment\nexit 3\n")
    python.chmod(0o755)
    monkeypatch.setenv(variable, "--xla_own=1")
    with pytest.raises(RuntimeError, match="exit 3"):
        compile_for_target(resolve(load_config(str(config)), allow=None), parse_target(target), str(python))
    environment = (tmp_path / "environment").read_text().splitlines()
    (flags,) = [line for line in environment if line.startswith(f"{variable}=")]
    wanted = merged(variables(hardware, RunSettings(), "/run", chip), {variable: "--xla_own=1"})[variable]
    assert flags.startswith(f"{variable}={wanted}") and wanted.endswith(" --xla_own=1") and "=true" in wanted
