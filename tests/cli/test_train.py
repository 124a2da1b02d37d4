"""`tlx train` as a user runs it: from nothing to the end, killed and gone on, refused, on two processes."""

import errno
import json
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.cli import tiny
from tests.cli.tiny import digests, metrics
from tests.tiers import tiers
from tlx import cli
from tlx.checkpoint import manifest as manifests
from tlx.checkpoint.checkpoints import Checkpoints
from tlx.training.journal import read_lines


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    return tiny.write_config(tmp_path_factory.mktemp("config"))


def train(config_file, workdir, *words, shape="clm"):
    return cli.main(["train", f"--config={config_file}:{shape}", f"--workdir={workdir}", *words])


@pytest.mark.parametrize("shape", tiers(["plm", "mixture", "recurrent_lm", "bilm"], slow=["recurrent_lm"]))
def test_a_run_in_two_halves_is_the_run_in_one(config_file, tmp_path, capsys, shape):
    """With XLNet's and Transformer-XL's memories and ELMo's states, which the second half must find as the
    first left them, and with a mixture of objectives on a mixture of sources."""
    assert train(config_file, tmp_path / "one", shape=shape) == 0
    assert train(config_file, tmp_path / "two", "--config.train.steps=20", shape=shape) == 0
    first = manifests.read(tmp_path / "two/checkpoints/20").start
    capsys.readouterr()
    assert train(config_file, tmp_path / "two", shape=shape) == 0
    out = capsys.readouterr().out
    assert "from checkpoints/20: 20 of 40 steps to go" in out
    assert "train.steps" in out  # the table of what changed
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    assert metrics(tmp_path / "one") == metrics(tmp_path / "two")
    assert [line["step"] for line in metrics(tmp_path / "one") if line["kind"] == "train"] == [*range(1, 41)]
    # Each start has an id of its own, which its checkpoints have too.
    starts = json.loads((tmp_path / "two/run.json").read_text())["starts"]
    assert starts == [first, manifests.read(tmp_path / "two/checkpoints/40").start] and len(set(starts)) == 2
    assert [
        line["event"]
        for line in read_lines(tmp_path / "two/events.jsonl")
        if "checkpoint" not in line["event"]
    ] == [
        "start",
        "end",
        "resume",
        "changed",
        "end",
    ]


@pytest.mark.slow
def test_another_config_or_other_text_is_refused_or_allowed_by_name(tmp_path, capsys):
    own = tiny.write_config(tmp_path)
    short = "--config.train.steps=2"
    assert train(own, tmp_path / "run", short) == 0
    before = (tmp_path / "run/run.json").read_text()
    capsys.readouterr()
    assert train(own, tmp_path / "run", short, "--config.optimizer.learning_rate=0.01") == 64
    assert "optimizer.learning_rate  0.003  0.01  refused" in capsys.readouterr().err
    assert (tmp_path / "run/run.json").read_text() == before
    allowed = "--allow-change=optimizer.learning_rate"
    words = ("--config.train.steps=4", "--config.optimizer.learning_rate=0.01", allowed)
    assert train(own, tmp_path / "run", *words) == 0
    assert json.loads((tmp_path / "run/run.json").read_text())["config"]["optimizer"]["learning_rate"] == 0.01
    (tmp_path / "text" / "0.txt").write_text("something else entirely, and longer than it was before\n" * 9)
    assert train(own, tmp_path / "run", *words) == 64
    assert "data.fingerprint" in capsys.readouterr().err


ERRORS = {
    "unknown key": (["--config.train.stesp=3"], "did you mean 'steps'"),
    "wrong type": (["--config.train.steps=many"], "must be int"),
    "batch and devices": (["--config.train.batch_size=12"], "must be a multiple of 8"),
    "batch and microbatches": (["--config.train.microbatches=3"], "it may be 1, 2, 4, 8"),
    "mesh and devices": (["--config.mesh.fsdp=3"], "mesh.fsdp can be one of 1, 2, 4, 8"),
    "heads and tensor axis": (["--config.mesh.tensor=8"], "the mesh's may be 1, 2, 4"),
    "objective and model": (["--config.model.kind=encoder"], "not one of: decoder"),
}


@pytest.mark.parametrize("error", ERRORS)
def test_a_config_error_is_one_line_and_writes_nothing(config_file, tmp_path, capsys, error):
    words, message = ERRORS[error]
    assert train(config_file, tmp_path / "run", *words) == 64
    out = capsys.readouterr().err
    assert message in out and len(out.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def cpu_seconds(process):
    """Wait for a process; its processor time, so that other work on the machine does not count."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    out, _ = process.communicate(timeout=180)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return out, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_a_config_error_comes_before_anything_is_compiled(config_file, tmp_path):
    """It costs little more than to import the libraries that every run needs, on a machine of any speed."""
    libraries = "import flax.linen, jax, optax, orbax.checkpoint, ml_collections; jax.devices()"
    _, imports = cpu_seconds(subprocess.Popen([sys.executable, "-c", libraries], stdout=subprocess.PIPE))
    words, message = ERRORS["heads and tensor axis"]
    process = tiny.tlx("train", f"--config={config_file}", f"--workdir={tmp_path}/run", *words, devices=8)
    out, seconds = cpu_seconds(process)
    assert process.returncode == 64 and message in out and len(out.splitlines()) == 1
    assert seconds < 2 * imports + 1


@pytest.mark.long
@pytest.mark.parametrize("shape", ["mlm", "clm", "span_corruption", "plm"])
def test_killed_at_random_moments_it_ends_as_if_it_had_not_been(config_file, tmp_path, shape):
    """kill -9 anywhere from the first step on, in the middle of a save too (there is one every 5 steps).

    CI has tests/test_random_kills.py.
    """
    words = ("train", f"--config={config_file}:{shape}", "--config.train.steps=60")
    tiny.finish(tiny.tlx(*words, f"--workdir={tmp_path}/one"))
    rng = random.Random(f"{shape} {time.time_ns()}")
    for _ in range(3):
        process = tiny.tlx(*words, f"--workdir={tmp_path}/two", "--config.log.print_every=1")
        for line in process.stdout:
            if line.startswith("step "):
                break
        time.sleep(rng.uniform(0, 0.5))
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    tiny.finish(tiny.tlx(*words, f"--workdir={tmp_path}/two"))
    assert digests(tmp_path / "one", 60) == digests(tmp_path / "two", 60)
    assert metrics(tmp_path / "one") == metrics(tmp_path / "two")


@pytest.mark.parametrize(
    "workers, ask",
    [
        pytest.param(
            0, lambda pid: os.kill(pid, signal.SIGTERM), id="by a scheduler", marks=pytest.mark.long
        ),
        pytest.param(
            1,
            lambda pid: os.killpg(pid, signal.SIGINT),
            id="at a terminal, whose ^C reaches the data workers too",
            marks=pytest.mark.long,
        ),
    ],
)
def test_asked_to_stop_it_saves_and_goes_on(config_file, tmp_path, workers, ask):
    words = ("train", f"--config={config_file}", "--config.checkpoint.every=0", "--config.train.steps=400")
    words = (*words, f"--config.data.workers={workers}")
    process = tiny.tlx(*words, f"--workdir={tmp_path}/run", "--config.log.print_every=1", group=True)
    for line in process.stdout:
        if line.startswith("step "):
            break
    ask(process.pid)
    out, _ = process.communicate(timeout=180)
    assert process.returncode == 42, out
    assert "saved, rerun to resume" in out
    (step,) = (int(folder.name) for folder in (tmp_path / "run/checkpoints").glob("[0-9]*"))
    assert step < 400
    out = tiny.finish(tiny.tlx(*words, f"--workdir={tmp_path}/run"))
    assert f"from checkpoints/{step}: {400 - step} of 400 steps to go" in out
    assert [line["step"] for line in metrics(tmp_path / "run") if line["kind"] == "train"] == [*range(1, 401)]


@pytest.mark.slow
def test_a_last_save_that_fails_is_an_error(config_file, tmp_path, monkeypatch, capsys):
    make_place = Checkpoints._make_room

    def full(self, step, size):
        return (
            OSError(errno.ENOSPC, "No space left on device") if step == 12 else make_place(self, step, size)
        )

    monkeypatch.setattr(Checkpoints, "_make_room", full)
    assert train(config_file, tmp_path / "run", "--config.train.steps=12") == 73
    assert "step 12, the last, could not be saved" in capsys.readouterr().err
    assert not (tmp_path / "run/lease.json").exists()
    errors = [line for line in read_lines(tmp_path / "run/events.jsonl") if line["event"] == "error"]
    assert [error["exit"] for error in errors] == [73]
    monkeypatch.undo()
    assert train(config_file, tmp_path / "run", "--config.train.steps=12") == 0
    assert "from checkpoints/10" in capsys.readouterr().out


@pytest.mark.slow
def test_a_step_that_does_not_fit_ends_the_run_with_what_to_change(config_file, tmp_path):
    """Attention scores of 16,384 x 16,384 for 256 heads, which the CPU's allocator refuses."""
    words = ("--config.train.batch_size=1", "--config.data.sequence_length=16384", "--config.eval.every=0")
    words = (*words, "--config.model.width=512", "--config.model.attention.num_heads=256")
    words = (*words, "--config.model.execution.attention=xla", "--config.train.steps=3")
    process = tiny.tlx("train", f"--config={config_file}", f"--workdir={tmp_path}/run", *words)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 78, out
    assert "too little memory for this run; raise train.microbatches, set model.execution.remat" in out
    assert "parameters 26 MB, optimizer state 52 MB" in out and "RESOURCE_EXHAUSTED" in out
    (error,) = [line for line in read_lines(tmp_path / "run/events.jsonl") if line["event"] == "error"]
    assert error["exit"] == 78 and not (tmp_path / "run/lease.json").exists()


@pytest.mark.parametrize("shape", tiers(["clm", "plm"], slow=()))
def test_two_processes_have_the_losses_of_one(config_file, tmp_path, shape):
    mesh = ("--config.mesh.data=2", "--config.mesh.fsdp=2", "--config.checkpoint.every=20")
    words = ("train", f"--config={config_file}:{shape}", *mesh)
    tiny.finish(tiny.tlx(*words, f"--workdir={tmp_path}/one", devices=4))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    both = {"TLX_COORDINATOR": f"127.0.0.1:{port}", "TLX_NUM_PROCESSES": "2"}
    pair = [
        tiny.tlx(*words, f"--workdir={tmp_path}/two", devices=2, TLX_PROCESS_ID=str(i), **both)
        for i in range(2)
    ]
    for process in pair:
        tiny.finish(process)
    one, two = metrics(tmp_path / "one"), metrics(tmp_path / "two")
    assert [line["step"] for line in one] == [line["step"] for line in two]
    np.testing.assert_allclose([x["loss"] for x in one], [x["loss"] for x in two], rtol=1e-5)
