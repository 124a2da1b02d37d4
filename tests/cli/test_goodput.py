"""`tlx report --goodput` of a run that was killed twice and asked to stop once accounts for its seconds."""

import os
import re
import signal
import time

import pytest

from tests.cli import tiny
from tlx.cli import main, report_goodput
from tlx.training.journal import read_lines
from tlx.training.lives import KINDS, Life, read_lives


@pytest.mark.long
def test_every_second_of_a_run_with_three_restarts_is_accounted_for(tmp_path, capsys):
    config = tiny.write_config(tmp_path)
    words = ["train", f"--config={config}", f"--workdir={tmp_path / 'run'}", "--config.train.steps=400"]
    words += ["--config.eval.every=0", "--config.checkpoint.every=40"]
    spans = []
    for ends_at, number in (
        (100, signal.SIGKILL),
        (190, signal.SIGTERM),
        (270, signal.SIGKILL),
        (None, None),
    ):
        began = time.time()
        process = tiny.tlx(*words)
        out = ""
        while (text := process.stdout.readline()) and (ends_at is None or f"step {ends_at}/" not in out):
            out += text
        if number is not None:
            os.kill(process.pid, number)
        process.communicate(timeout=120)
        spans.append((began, time.time()))
        assert process.returncode == (0 if number is None else 42 if number == signal.SIGTERM else -number), (
            out
        )
    lives = read_lives(tmp_path / "run")
    assert len(lives) == 4
    # From outside: up to the last line, after which the last process exits.
    wall = read_lines(tmp_path / "run" / "goodput.jsonl")[-1]["time"] - spans[0][0]
    assert sum(life.total for life in lives) == pytest.approx(wall, rel=0.01)
    # Down is from the last line of a life on: what passes until its process is gone, and until the next one starts.
    for life, (began, ended) in zip(lives, spans, strict=True):
        assert abs(life.started - began) < 0.01 * wall
        assert began < life.started + life.total - life.seconds["down"] < ended
    begins = [life.begin for life in lives]
    assert begins[0] == 0 and begins[1] % 40 == 0 and begins[3] % 40 == 0 and lives[-1].step == 400
    # A kill loses what was trained since the last save, a request to stop nothing.
    lost = [life.seconds["lost work"] > 0 for life in lives]
    assert lost == [lives[0].step > begins[1], False, lives[2].step > begins[3], False]
    for life in lives:
        assert life.seconds["start"] > 0 and life.seconds["compile"] > 0
    assert [life.seconds["restore"] > 0.01 for life in lives[1:]] == [True] * 3
    assert main(["report", str(tmp_path / "run"), "--goodput"]) == 0
    out = capsys.readouterr().out
    reasons = re.findall(r"steps \S+ to \S+: (.*)", out)
    assert reasons[0] == reasons[2] == "killed without a word (SIGKILL, a crash, or the loss of a host)"
    assert reasons[1].startswith("asked to stop (SIGTERM), saved at step ")
    assert reasons[3] == "finished at step 400"


def test_energy_is_power_times_the_hours_of_all_devices(tmp_path, monkeypatch, capsys):
    """Of two starts of an hour on four devices, between which the run was down for another."""
    seconds = dict.fromkeys(KINDS, 0.0)
    lives = [Life(0.0, 0, 9, 2, seconds | {"step": 3600.0, "down": down}, "", {}) for down in (3600.0, 0.0)]
    monkeypatch.setattr(report_goodput, "read_run", lambda _: {"mesh": {"data": 2, "fsdp": 2, "tensor": 1}})
    figures = report_goodput.energy(tmp_path, lives, 500.0, 400.0)
    assert figures == {"device_hours": 8.0, "energy_kwh": 4.0, "co2e_kg": 1.6}
    assert list(report_goodput.energy(tmp_path, lives, 500.0, 0.0)) == ["device_hours", "energy_kwh"]
    for words, message in (
        (["--goodput", "--grid=400"], "--grid needs --watts"),
        (["--watts=400"], "--watts and --grid are for --goodput"),
        (["--goodput", "--watts=-4"], "--watts=-4 must be above 0"),
    ):
        assert main(["report", str(tmp_path), *words]) == 64 and message in capsys.readouterr().err
