"""Settings of XLA, libtpu and NCCL: one table, changed by flags, the same in every launcher."""

import re
import subprocess
import sys

import pytest
import yaml

from tests.launch.test_values import REQUIRED
from tlx.base.chips import chip_name, chips
from tlx.base.compiler_settings import CHIP_SETTINGS, SETTINGS
from tlx.base.errors import ConfigError
from tlx.launch.clusters import CLUSTERS
from tlx.launch.job import LaunchJob, render
from tlx.launch.settings import RunSettings, exports, merged, variables

HIDING = "--xla_gpu_enable_latency_hiding_scheduler"


def environment(settings, target="gpu", environ=None):
    return merged(variables(target, settings, "/shared/try"), environ or {})


def test_each_setting_has_a_reason_and_a_name_of_its_own():
    for settings in (*SETTINGS.values(), *CHIP_SETTINGS.values()):
        assert len({setting.name for setting in settings}) == len(settings)
        assert all(len(setting.reason) > 20 for setting in settings)


def test_flags_and_variables_are_added_replaced_and_dropped():
    default = environment(RunSettings())
    assert default == {
        "XLA_FLAGS": f"{HIDING}=true",
        "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.9",
        "NCCL_DEBUG": "WARN",
        "JAX_COMPILATION_CACHE_DIR": "/shared/try/compilation-cache",
    }
    changed = RunSettings(
        flags=("--xla_dump_to=/tmp/x", f"{HIDING}=false"),
        env=("NCCL_DEBUG=INFO", "A=b c=d"),
        drop=("XLA_PYTHON_CLIENT_MEM_FRACTION", "--xla_tpu_enable_data_parallel_all_reduce_opt"),
        compilation_cache="none",
    )
    assert environment(changed) == {
        "XLA_FLAGS": f"{HIDING}=false --xla_dump_to=/tmp/x",
        "NCCL_DEBUG": "INFO",
        "A": "b c=d",
    }
    assert "--xla_tpu_data_parallel" in environment(RunSettings(), "tpu-slices")["LIBTPU_INIT_ARGS"]
    assert set(environment(RunSettings(), "tpu")) == {"JAX_COMPILATION_CACHE_DIR"}


def test_a_chip_has_settings_of_its_own():
    found = merged(variables("tpu", RunSettings(), "/run", "v6e"), {})["LIBTPU_INIT_ARGS"].split()
    assert found == [f"{setting.name}=true" for setting in CHIP_SETTINGS["v6e"]]
    left = RunSettings(drop=tuple(setting.name for setting in CHIP_SETTINGS["v6e"]))
    assert "LIBTPU_INIT_ARGS" not in merged(variables("tpu", left, "/run", "v6e"), {})
    assert set(CHIP_SETTINGS) <= set(chips())


@pytest.mark.parametrize(
    ("accelerator", "chip"),
    [
        ("v6e-256", "v6e"),
        ("v5litepod-16", "v5e"),
        ("v5p-128", "v5p"),
        ("tpu-v6e-slice", "v6e"),
        ("tpu-v5-lite-podslice", "v5e"),
        ("tpu-v5p-slice", "v5p"),
        ("tpu-v4-podslice", "v4"),
        ("nvidia-h100-80gb", "h100"),
        ("nvidia-tesla-k80", ""),
        ("", ""),
    ],
)
def test_the_chip_of_an_accelerator(accelerator, chip):
    assert chip_name(accelerator) == chip


def test_what_the_users_environment_says_stays():
    own = {"XLA_FLAGS": "--xla_a=1", "NCCL_DEBUG": "INFO", "JAX_COMPILATION_CACHE_DIR": "/fast"}
    found = environment(RunSettings(), environ=own)
    assert found["XLA_FLAGS"] == f"{HIDING}=true --xla_a=1", "the last of two wins"
    assert found["NCCL_DEBUG"] == "INFO" and found["JAX_COMPILATION_CACHE_DIR"] == "/fast"
    assert environment(RunSettings(env=("NCCL_DEBUG=TRACE",)), environ=own)["NCCL_DEBUG"] == "TRACE"


@pytest.mark.parametrize("own", [{}, {"XLA_FLAGS": "--xla_a=1", "NCCL_DEBUG": "INFO"}])
def test_a_script_exports_what_a_process_gets(own):
    chosen = variables("gpu", RunSettings(env=('B=it\'s $HOME "x"',)), "/shared/it's")
    names = [variable.name for variable in chosen]
    script = exports(chosen) + "\n" + "\n".join(f'printf "%s\\n" "${name}"' for name in names)
    out = subprocess.run(["bash", "-euc", script], env=own, capture_output=True, text=True, check=True).stdout
    expected = merged(chosen, own)
    assert [line.strip() for line in out.splitlines()] == [expected[name] for name in names]


@pytest.mark.parametrize("name", ["slurm", "gke", "tpu-vm"])
def test_every_launcher_passes_them_on(name):
    settings = RunSettings(flags=("--xla_dump_to=/tmp/x",), env=("B=c d",), compilation_cache="/shared/cache")
    job = LaunchJob("try", "quickstart:tiny", (), "/shared/try", None, settings)
    cluster = CLUSTERS.load(name)
    more = {"setup": "true"} if name == "tpu-vm" else {}
    text = "\n".join(render(cluster, job, cluster.options(**REQUIRED.get(name, {}), **more)).values())
    if name == "gke":
        jobset = next(iter(yaml.safe_load_all(text)))
        pod = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
        env = {entry["name"]: entry.get("value") for entry in pod["containers"][0]["env"]}
        assert env["XLA_FLAGS"] == "--xla_dump_to=/tmp/x" and env["B"] == "c d"
        assert env["JAX_COMPILATION_CACHE_DIR"] == "/shared/cache"
        return
    lines = {"slurm": "XLA_FLAGS", "tpu-vm": "LIBTPU_INIT_ARGS"}
    assert f"export {lines[name]}=--xla_dump_to=/tmp/x" in text
    assert "export B='c d'" in text and "export JAX_COMPILATION_CACHE_DIR=/shared/cache" in text
    # Before the run is started, and after the last directive of SLURM.
    assert text.index("export B") < text.index("tlx train")


@pytest.mark.parametrize(
    "settings, message",
    [
        (RunSettings(flags=("xla_a=1",)), "--flag='xla_a=1' must be a flag"),
        (RunSettings(flags=("--xla_a=1 --xla_b=2",)), "without spaces"),
        (RunSettings(env=("A",)), "must be NAME=VALUE"),
        (RunSettings(env=("TLX_PROCESS_ID=1",)), "the launcher sets TLX_COORDINATOR"),
        (RunSettings(env=("WANDB_API_KEY=1234",)), "would put a secret into files"),
        (RunSettings(drop=("NCCL_DEBUGG",)), "NCCL_DEBUG"),
    ],
)
def test_wrong_ones_are_refused(settings, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        variables("gpu", settings, "/shared/try")


@pytest.mark.slow
def test_xla_knows_the_flags():
    """An unknown one ends the process; flags of GPUs are known to the build for CPUs too."""
    flags = " ".join(f"{s.name}={s.value}" for s in SETTINGS["gpu"] if s.name.startswith("--"))
    code = "import jax; jax.devices()"
    for extra, known in (("", True), (" --xla_no_such_flag=1", False)):
        environ = {"XLA_FLAGS": flags + extra, "JAX_PLATFORMS": "cpu"}
        result = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True)
        assert (result.returncode == 0) == known, result.stderr
