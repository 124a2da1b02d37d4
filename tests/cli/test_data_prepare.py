"""`tlx data prepare --to`: processes that are killed, array jobs, and a run that goes on from a token cache."""

import collections
import hashlib
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest

from tests.cli.tiny import ROOT, digests, write_config
from tlx.base.errors import ConfigError
from tlx.cli.data import main

CONFIG = """
from tlx.run import base_config

def get_config(arg):
    config = base_config("clm")
    config.tokenizer.vocab_size = 400
    config.tokenizer.train_bytes = 20_000
    config.data.source = "text"
    config.data.text.files = ({glob!r},)
    config.data.filter.duplicates = "drop"
    return config
"""


@pytest.fixture
def config(tmp_path, monkeypatch):
    return _write(tmp_path, monkeypatch, 1300)


def _write(tmp_path, monkeypatch, records):
    """A config and six files of so many records each."""
    monkeypatch.setenv("TLX_CACHE", str(tmp_path / "cache"))
    rng = random.Random(0)
    words = "the quick brown fox jumps over a lazy dog again".split()
    for number in range(6):
        lines = [json.dumps({"text": " ".join(rng.choices(words, k=30))}) for _ in range(records)]
        (tmp_path / f"{number}.jsonl").write_text("\n".join(lines))
    path = tmp_path / "config.py"
    path.write_text(CONFIG.format(glob=str(tmp_path / "*.jsonl")))
    return path


def _start(config, place):
    words = [sys.executable, "-m", "tlx", "data", "prepare", f"--config={config}", f"--to={place}"]
    return subprocess.Popen(
        [*words, "--processes=2", "--task-megabytes=1"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )


def _sums(place: pathlib.Path) -> dict[str, str]:
    files = sorted(path for path in place.rglob("*") if path.is_file())
    return {str(path.relative_to(place)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _children(process) -> list[int]:
    path = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(pid) for pid in path.read_text().split()] if path.exists() else []


def _is_running(pid: int) -> bool:
    try:
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.slow
@pytest.mark.skipif(not pathlib.Path("/proc/self/task").exists(), reason="finds its processes in /proc")
def test_killed_processes_lose_nothing(tmp_path, monkeypatch):
    """SIGKILL to the command, then to one of its workers: what was done stays, and the bytes are the same."""
    config = _write(tmp_path, monkeypatch, 8000)
    place = tmp_path / "corpus"
    process = _start(config, place)
    while not list(place.glob("duplicates/hashes-*")):
        time.sleep(0.01)
    workers = _children(process)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while any(map(_is_running, workers)):
        assert time.monotonic() < deadline, "workers outlive the command"
        time.sleep(0.05)
    # A task that was killed between its two splits is done again.
    hashes = list(place.glob("duplicates/hashes-*"))
    splits = collections.Counter(path.name.rpartition("-")[0] for path in hashes)
    done = {path: path.stat().st_mtime_ns for path in hashes if splits[path.name.rpartition("-")[0]] == 2}
    assert not (place / "corpus.json").exists()
    process = _start(config, place)
    while not list(place.glob("tasks/*.json")):
        time.sleep(0.01)
    for pid in _children(process):
        os.kill(pid, signal.SIGKILL)
        break
    assert process.wait() in (0, 64)  # the last task may have been done before
    process = _start(config, place)
    out = process.communicate()[0]
    assert process.returncode == 0 and f"train with --config.data.tokens={place}" in out
    assert all(path.stat().st_mtime_ns == time for path, time in done.items())
    assert (
        main(
            [
                "prepare",
                f"--config={config}",
                f"--to={tmp_path / 'whole'}",
                "--processes=1",
                "--task-megabytes=1",
            ]
        )
        == 0
    )
    assert _sums(place) == _sums(tmp_path / "whole")


def test_array_jobs_of_slurm(config, tmp_path, monkeypatch, capsys):
    """Each stage waits for the one before it; elements run with a share of the tasks each."""
    (tmp_path / "bin").mkdir()
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/submitted\nwc -l < {tmp_path}/submitted\n')
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    words = [f"--config={config}", "--to=corpus", "--task-megabytes=1"]
    assert main(["prepare", *words, "--runner=slurm", "--array=2", "--sbatch=--time=8:00:00"]) == 0
    scripts = tmp_path / "slurm-prepare"
    assert (tmp_path / "submitted").read_text().splitlines() == [
        f"--parsable {scripts}/hashes.sbatch",
        f"--parsable --dependency=afterok:1 {scripts}/duplicates.sbatch",
        f"--parsable --dependency=afterok:2 {scripts}/tokens.sbatch",
        f"--parsable --dependency=afterok:3 {scripts}/index.sbatch",
    ]
    for stage in ("hashes", "duplicates", "tokens", "index"):
        script = (scripts / f"{stage}.sbatch").read_text()
        assert (
            f"#SBATCH --array=0-{0 if stage == 'index' else 1}\n" in script
            and "#SBATCH --time=8:00:00" in script
        )
        command = script.splitlines()[-1]
        assert command.startswith(f"exec tlx data prepare --config={config} --to={tmp_path}/corpus ")
        for element in [""] if stage == "index" else ["0", "1"]:
            words = [
                word.replace('"', "").replace("$SLURM_ARRAY_TASK_ID", element) for word in command.split()[3:]
            ]
            assert main(words) == 0
    assert "train with --config.data.tokens=" in capsys.readouterr().out
    assert main(["prepare", f"--config={config}", "--to=whole", "--task-megabytes=1", "--processes=1"]) == 0
    assert _sums(tmp_path / "corpus") == _sums(tmp_path / "whole")


@pytest.mark.parametrize(
    "words, message",
    [
        (["--share=3/3", "--only=tokens"], "--share = '3/3' must be I/N"),
        (["--share=1/3"], "give --only=hashes, duplicates or tokens"),
        (["--task-megabytes=0"], "--task-megabytes and --array 1 or more"),
        (["--", "--runner=DataflowRunner"], "words after -- are flags of Beam"),
        (["--runner=slurm"], "there is no sbatch here"),
    ],
)
def test_wrong_flags_are_one_line(config, tmp_path, words, message, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=message):
        main(["prepare", f"--config={config}", f"--to={tmp_path / 'corpus'}", *words])


@pytest.mark.long
def test_a_run_goes_on_from_its_token_cache_to_a_corpus(tmp_path, monkeypatch):
    """A run that was begun on a token cache resumes on the corpus with the same windows, bit for bit."""
    from tlx.cli.train import main as train

    monkeypatch.setenv("TLX_CACHE", str(tmp_path / "cache"))
    path = write_config(tmp_path)
    words = [f"--config={path}:clm", "--config.eval.every=0"]
    place = tmp_path / "corpus"
    assert main(["prepare", f"--config={path}:clm", f"--to={place}", "--processes=1"]) == 0
    assert train([*words, f"--workdir={tmp_path / 'whole'}", "--config.train.steps=10"]) == 0
    assert train([*words, f"--workdir={tmp_path / 'run'}", "--config.train.steps=5"]) == 0
    assert (
        train(
            [
                *words,
                f"--workdir={tmp_path / 'run'}",
                "--config.train.steps=10",
                f"--config.data.tokens={place}",
            ]
        )
        == 0
    )
    assert digests(tmp_path / "run", 10) == digests(tmp_path / "whole", 10)
