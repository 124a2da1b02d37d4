"""The batch script: what is rendered, and the very script run by a SLURM of one node."""

import re
import subprocess
import sys
import time

import pytest

from tests.cli import tiny
from tests.launch import one_node
from tlx import cli
from tlx.base.errors import ConfigError
from tlx.launch.slurm import SCRIPT, SlurmOptions
from tlx.training.journal import read_lines


def render(folder, *words):
    launch = ["launch", "slurm", "--config=quickstart:tiny", "--name=try", f"--render={folder}"]
    assert cli.main([*launch, "--workdir=/shared/try", *words]) == 0
    return (folder / SCRIPT).read_text()


def test_the_script_says_what_was_asked_for(tmp_path):
    text = render(
        tmp_path,
        *("--nodes=4", "--gpus-per-node=8", "--partition=big", "--sbatch=--qos=low", "--time=7-0"),
        *("--grace-seconds=300", "--config.train.steps=9", "--restarts=7"),
    )
    directives = re.findall(r"^#SBATCH --(.*)$", text, re.MULTILINE)
    assert {
        *("nodes=4", "gpus-per-node=8", "partition=big", "qos=low", "time=7-0", "requeue"),
        *("signal=TERM@300", "open-mode=append", "output=/shared/try/logs/slurm-%j.log"),
    } <= set(directives)
    assert "tlx train --config=quickstart:tiny --config.train.steps=9 --config.name=try" in text
    assert "42 | 134 | 137 | 139 | 143 | 170)" in text and '"$restarts" -lt 7' in text
    assert "{{" not in text
    assert text.index("#SBATCH --qos") < text.index(
        "set -euo"
    )  # SLURM reads no further than the first command


def test_words_reach_the_script_as_they_are(tmp_path):
    text = render(tmp_path, "--config.data.text.files=('a b/$HOME/*.txt',)")
    assert subprocess.run(["bash", "-n", tmp_path / SCRIPT]).returncode == 0
    (line,) = [line for line in text.splitlines() if "--config.data.text.files" in line]
    words = subprocess.run(
        ["bash", "-c", f"printf '%s\\n' {line.split('tlx-task ')[1].split(' || ')[0]}"],
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    assert "--config.data.text.files=('a b/$HOME/*.txt',)" in words


@pytest.mark.parametrize("wrong", [{"nodes": 0}, {"time": "soon"}])
def test_wrong_options_are_refused(wrong):
    with pytest.raises(ConfigError, match=f"--{next(iter(wrong))}"):
        SlurmOptions(**wrong).validate()


@pytest.fixture(scope="module")
def slurm():
    if reason := one_node.why_not():
        pytest.skip(reason)
    with one_node.cluster() as environ:
        yield environ | {"JAX_NUM_CPU_DEVICES": "1", "PYTHONPATH": str(tiny.ROOT)}


class Submitted:
    """`tlx launch slurm` of a short run of two tasks, as a user types it."""

    def __init__(self, slurm, config, workdir, *words):
        self.environ, self.workdir = slurm, workdir
        out = subprocess.run(
            [
                *(sys.executable, "-m", "tlx", "launch", "slurm", f"--config={config}", "--name=run"),
                *(f"--workdir={workdir}", "--tasks-per-node=2", "--time=10", "--config.log.print_every=1"),
                *(f"--python={sys.executable} -u -m tlx", "--config.eval.every=0", *words),
            ],
            cwd=workdir.parent,
            env=slurm,
            capture_output=True,
            text=True,
        )
        assert out.returncode == 0, out.stdout + out.stderr
        self.job = re.search(r"Submitted batch job (\d+)", out.stdout)[1]

    def log(self):
        path = self.workdir / "logs" / f"slurm-{self.job}.log"
        return path.read_text() if path.exists() else ""

    def wait_for(self, sign, seconds=400):
        deadline = time.monotonic() + seconds
        while not re.search(sign, self.log()):
            assert time.monotonic() < deadline, f"no {sign!r} in:\n{self.log()}\n{self.state()}"
            time.sleep(0.5)

    def state(self):
        shown = self.run("scontrol", "show", "job", self.job)
        found = re.search(r"JobState=(\w+)", shown)
        return found[1] if found else "gone"

    def run(self, *command):
        out = subprocess.run(command, env=self.environ, capture_output=True, text=True)
        return out.stdout + out.stderr


@pytest.mark.slow
def test_a_job_that_is_told_to_stop_is_queued_again_and_goes_on(slurm, tmp_path):
    config = tiny.write_config(tmp_path)
    job = Submitted(
        *(slurm, config, tmp_path / "run", "--config.checkpoint.every=0", "--config.train.steps=60")
    )
    job.wait_for(r"step 3/60 ")
    job.run("scancel", "--signal=TERM", job.job)  # what SLURM sends before the limit, and on preemption
    job.wait_for(r"process \d \(.*\) ended first, exit 42\nlaunch \| exit 42: queued again")
    job.wait_for(r"start 2\n[\s\S]*step 60/60 ")
    (step,) = set(re.findall(r"preempted at step (\d+), saved", job.log()))
    assert f"resuming   from checkpoints/{step}" in job.log()
    losses = [line["step"] for line in read_lines(tmp_path / "run/metrics.jsonl")]
    assert losses == list(range(1, 61))


@pytest.mark.slow
def test_a_cancelled_job_saves_and_stays_cancelled(slurm, tmp_path):
    config = tiny.write_config(tmp_path)
    job = Submitted(slurm, config, tmp_path / "run", "--config.train.steps=4000")
    job.wait_for(r"step 3/4,000 ")
    job.run("scancel", job.job)
    deadline = time.monotonic() + 60
    while job.state() not in ("CANCELLED", "gone") and time.monotonic() < deadline:
        time.sleep(0.5)
    time.sleep(8)  # longer than a job that is queued again has to wait here
    assert job.state() in ("CANCELLED", "gone") and "start 2" not in job.log()


@pytest.mark.slow
def test_a_job_that_no_restart_mends_is_not_queued_again(slurm, tmp_path):
    config = tiny.write_config(tmp_path)
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "run.json").write_text('{"format": 99}')
    job = Submitted(slurm, config, tmp_path / "run")
    job.wait_for(r"ended first, exit 64")
    time.sleep(8)
    assert job.state() == "FAILED" and "start 2" not in job.log()
