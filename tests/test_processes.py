"""Real processes (gloo) train one run: stopped, killed, stuck, drifting, missing; resumed elsewhere."""

import os
import re
import signal
import textwrap
import time

import numpy as np
import pytest

from tests.cli import tiny
from tlx.launch.local import free_port
from tlx.training.journal import read_lines
from tlx.training.lives import read_lives


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    return tiny.write_config(tmp_path_factory.mktemp("config"))


def launch(config_file, workdir, *words, processes=2, restarts=3, **environ):
    """`tlx launch local` of a short run, one device a process; the batch of 8 rows is spread over all."""
    return tiny.tlx(
        *("launch", "local", f"--config={config_file}", "--name=run", f"--workdir={workdir}"),
        *(f"--processes={processes}", "--devices=1", f"--restarts={restarts}"),
        *("--config.log.print_every=1", "--config.eval.every=0", *words),
        **environ,
    )


def train(config_file, workdir, *words, **environ):
    """One process of a run whose processes are started by hand."""
    return tiny.tlx("train", f"--config={config_file}", f"--workdir={workdir}", *words, **environ)


def lines_until(process, sign):
    """Output up to the first line that holds `sign`."""
    found = []
    for line in process.stdout:
        found.append(line)
        if sign in line:
            return found
    raise AssertionError("".join(found))


def pids(lines):
    """Process ids by process, of the newest start."""
    found = re.findall(r"launch \| process (\d+) is pid (\d+)", "".join(lines))
    return {int(process): int(pid) for process, pid in found}


def losses(workdir):
    return {line["step"]: line["loss"] for line in read_lines(workdir / "metrics.jsonl") if "loss" in line}


def broken(tmp_path, code):
    """Environment in which process 1 runs `code` when it starts; `Pipeline` is the data's."""
    (tmp_path / "broken").mkdir()
    patch = "import os\nif os.environ.get('TLX_PROCESS_ID') == '1':\n"
    patch += textwrap.indent("from tlx.data.pipeline import Pipeline\n" + textwrap.dedent(code), "    ")
    (tmp_path / "broken" / "sitecustomize.py").write_text(patch)
    return {"PYTHONPATH": f"{tmp_path / 'broken'}:{tiny.ROOT}"}


def end(process, lines, timeout=120):
    """(exit code, all output, seconds until the end)."""
    began = time.monotonic()
    rest, _ = process.communicate(timeout=timeout)
    return process.returncode, "".join(lines) + rest, time.monotonic() - began


@pytest.mark.slow
def test_one_is_asked_to_stop_all_save_the_same_step_and_the_run_goes_on(config_file, tmp_path):
    """The second process' data are slow, which goodput.jsonl says of it and not of the one that waits for it."""
    environ = broken(
        tmp_path,
        """
        import time
        whole = Pipeline.iterate
        def iterate(self, start, rows):
            for batch in whole(self, start, rows):
                time.sleep(0.1)
                yield batch
        Pipeline.iterate = iterate
        """,
    )
    words = ("--config.checkpoint.every=0", "--config.train.steps=60")
    process = launch(config_file, tmp_path / "run", *words, **environ)
    lines = lines_until(process, "p0 | step 3/")
    os.kill(pids(lines)[1], signal.SIGTERM)
    code, out, _ = end(process, lines)
    assert code == 0, out
    steps = set(re.findall(r"p[01] \| tlx train: preempted at step (\d+), saved, rerun to resume", out))
    assert len(steps) == 1, out
    assert re.search(r"launch \| process \d stopped first \(exit 42: asked to stop, and saved\)", out)
    assert f"p0 | resuming   from checkpoints/{steps.pop()}" in out
    assert sorted(losses(tmp_path / "run")) == list(range(1, 61))
    first, second = read_lives(tmp_path / "run")
    assert first.processes == second.processes == 2 and first.reason.startswith("asked to stop")
    compared = [
        line["slowest"] for line in read_lines(tmp_path / "run" / "goodput.jsonl") if "slowest" in line
    ]
    slow = [host for host in compared if host["process"] == 1]
    # Of the first line of a start there is no step before; and this machine may be busy for a moment.
    assert len(slow) > 0.8 * len(compared) and all(host["seconds_per_step"] > 0.1 for host in slow)
    # The mean of both processes, of which one waits for data and the other for it.
    assert second.seconds["data wait"] > 0.05 * (second.step - second.begin)


@pytest.mark.long
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_others_and_is_named(config_file, tmp_path, victim):
    steps = "--config.train.steps=80"
    tiny.finish(launch(config_file, tmp_path / "one", steps))
    process = launch(config_file, tmp_path / "two", steps, restarts=0)
    lines = lines_until(process, "p0 | step 12/")
    os.kill(pids(lines)[victim], signal.SIGKILL)
    code, out, seconds = end(process, lines)
    assert code == 137 and seconds < 60, out
    assert f"launch | process {victim} died first (signal 9 (SIGKILL)), log: {tmp_path}/two/logs" in out
    out = tiny.finish(launch(config_file, tmp_path / "two", steps))
    assert re.search(r"resuming   from checkpoints/\d+: ", out), out
    assert losses(tmp_path / "one") == losses(tmp_path / "two")


@pytest.mark.long
def test_a_stopped_trainer_is_taken_over_and_writes_nothing(config_file, tmp_path):
    """SIGSTOP for longer than a lease lasts: another start takes the run over, the stopped one ends with 75."""
    words = ("--config.train.steps=4000", "--config.checkpoint.every=0", "--config.log.print_every=1")
    first = train(config_file, tmp_path / "run", *words)
    lines_until(first, "step 3/")
    os.kill(first.pid, signal.SIGSTOP)
    time.sleep(
        95
    )  # on one machine, the clock that counts is that of the boot: no file's time can be set back
    words = (*words[1:], "--config.train.steps=20", "--allow-change=train.steps")
    second = train(config_file, tmp_path / "run", *words)
    lines_until(second, "step 3/")
    os.kill(first.pid, signal.SIGCONT)
    out, _ = first.communicate(timeout=120)
    assert first.returncode == 75, out
    tiny.finish(second)
    assert not (tmp_path / "run" / "lease.json").exists()
    assert [path.name for path in (tmp_path / "run/checkpoints").glob("[0-9]*")] == ["20"]


@pytest.mark.long
def test_a_stuck_process_is_noticed_and_says_where(config_file, tmp_path):
    environ = broken(
        tmp_path,
        """
        import time
        whole = Pipeline.iterate
        def iterate(self, start, rows):
            for k, batch in enumerate(whole(self, start, rows), start):
                if k == 4:
                    time.sleep(1000)
                yield batch
        Pipeline.iterate = iterate
        """,
    )
    process = launch(config_file, tmp_path / "run", "--config.train.stall_seconds=8", restarts=0, **environ)
    code, out, _ = end(process, [])
    assert code == 170, out
    assert re.search(r"p1 \| watchdog: process 1 .* phase data, last step 4; leaving with 170", out), out
    assert re.search(r'p1 \|   File ".*sitecustomize.py", line \d+ in iterate', out), out
    assert "launch | process 1 died first (exit 170: no progress" in out


@pytest.mark.long
def test_a_process_with_other_data_is_named(config_file, tmp_path):
    environ = broken(
        tmp_path,
        """
        whole = Pipeline._row
        def _row(self, k, b, in_order=False):
            row = whole(self, k, b, in_order)
            return row if k < 8 else {**row, "tokens": row["tokens"] + 1}
        Pipeline._row = _row
        """,
    )
    process = launch(config_file, tmp_path / "run", "--config.train.steps=30", restarts=0, **environ)
    code, out, _ = end(process, [])
    assert code == 77, out
    assert re.search(
        r"processes do not agree at step 10; .*\n.*rows of the batch: processes 0 \(.*\), 1 \(", out
    )
    # Long before train.compare_every (100): nothing is saved that they do not agree on.
    assert [path.name for path in (tmp_path / "run/checkpoints").glob("[0-9]*")] == ["5"]


@pytest.mark.long
@pytest.mark.slow
def test_a_process_that_reads_other_data_is_refused_before_a_step(config_file, tmp_path):
    """Files of one name may differ between hosts."""
    environ = broken(
        tmp_path,
        """
        import tempfile
        from tlx.data.sources import text
        whole = text._decoded
        text._decoded = lambda content, where: whole(content, where).replace("model", "modem")
        os.environ["TLX_CACHE"] = tempfile.mkdtemp()
        """,
    )
    process = launch(config_file, tmp_path / "run", restarts=0, **environ)
    code, out, _ = end(process, [])
    assert code == 77, out
    assert re.search(
        r"the hosts read other data \(sha256\); nothing was trained:\n.*  data: \w+ on process", out
    )
    assert "step 1/" not in out and not (tmp_path / "run/metrics.jsonl").exists()


@pytest.mark.slow
def test_processes_of_different_configs_are_refused_before_anything_is_made(config_file, tmp_path):
    port = str(free_port())
    pair = [
        train(
            *(config_file, tmp_path / "run", f"--config.seed={i}"),
            TLX_COORDINATOR=f"127.0.0.1:{port}",
            TLX_NUM_PROCESSES="2",
            TLX_PROCESS_ID=str(i),
        )
        for i in range(2)
    ]
    outputs = [process.communicate(timeout=180)[0] for process in pair]
    assert [process.returncode for process in pair] == [77, 77], outputs
    assert all("different configs (sha256)" in out for out in outputs)
    assert not (tmp_path / "run").exists()


@pytest.mark.long
def test_a_missing_process_and_a_doubled_one_are_named(config_file, tmp_path):
    meeting = {"TLX_COORDINATOR": f"127.0.0.1:{free_port()}", "TLX_NUM_PROCESSES": "3"}
    pair = [
        train(config_file, tmp_path / "run", TLX_PROCESS_ID=str(i), TLX_START_SECONDS="20", **meeting)
        for i in (0, 1)
    ]
    outputs = [process.communicate(timeout=180)[0] for process in pair]
    assert [process.returncode for process in pair] == [170, 170], outputs
    assert all(
        re.search(r"waited 20 s for 3 processes; seen: 0 .*, 1 .*; missing: 2", out) for out in outputs
    )
    meeting["TLX_COORDINATOR"] = f"127.0.0.1:{free_port()}"
    three = [train(config_file, tmp_path / "run", TLX_PROCESS_ID=str(i), **meeting) for i in (0, 1, 1)]
    outputs = [process.communicate(timeout=180)[0] for process in three]
    assert all(process.returncode == 64 for process in three), outputs
    assert all("two processes have the id 1" in out and "pid" in out for out in outputs)


@pytest.mark.long
def test_a_run_of_two_goes_on_with_one_and_four_and_reads_the_same_batches(config_file, tmp_path):
    """Losses say so: they are those of a run on one process throughout, to the order of summation."""
    words = [f"--config.train.steps={steps}" for steps in (10, 20, 30)]
    tiny.finish(launch(config_file, tmp_path / "one", words[2], processes=1))
    for count, steps in zip((2, 4, 1), words, strict=True):
        out = tiny.finish(launch(config_file, tmp_path / "two", steps, processes=count))
    assert "from checkpoints/20: 10 of 30 steps to go" in out
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert sorted(two) == list(range(1, 31))
    np.testing.assert_allclose([one[n] for n in range(1, 31)], [two[n] for n in range(1, 31)], rtol=1e-5)
