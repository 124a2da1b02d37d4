"""Supervision without a model: prefixes, who died first, signals passed on, restarts by exit code."""

import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from tests import stores
from tests.cli import tiny
from tlx.base import errors
from tlx.base import place as places
from tlx.base.errors import ConfigError
from tlx.launch import exits, local
from tlx.launch.exits import RestartDecision, next_move
from tlx.launch.job import LaunchJob
from tlx.launch.local import LocalOptions
from tlx.launch.secrets import hider, redacted, refuse_secrets
from tlx.launch.supervise import ProcessExit, Supervisor
from tlx.training.journal import read_lines

ROOT = pathlib.Path(__file__).parents[2]


def supervise(tmp_path, code, count=2, linger=5.0, **extra):
    """(deaths, lines) of `count` Python processes that know their number as N."""
    lines = []
    command = [sys.executable, "-c", textwrap.dedent(code)]
    supervisor = Supervisor(command, tmp_path, say=lines.append, linger=linger, **extra)
    return supervisor, lines, [{**os.environ, "N": str(i)} for i in range(count)]


def test_lines_have_a_prefix_and_a_file(tmp_path):
    code = "import os; print('hello from', os.environ['N'])"
    supervisor, lines, environs = supervise(tmp_path, code)
    assert sorted(supervisor.run(environs)) == [ProcessExit(0, 0), ProcessExit(1, 0)]
    assert {"p0 | hello from 0", "p1 | hello from 1"} <= set(lines)
    assert (tmp_path / "p1.log").read_text() == "hello from 1\n"


def test_the_first_to_die_is_named_and_the_rest_is_ended(tmp_path):
    code = """
        import os, signal, time
        if os.environ["N"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)
    """
    began = time.monotonic()
    supervisor, lines, environs = supervise(tmp_path, code, count=3, linger=1.0)
    deaths = supervisor.run(environs)
    assert deaths[0] == ProcessExit(1, 137) and sorted(death.process for death in deaths) == [0, 1, 2]
    assert f"launch | process 1 died first (signal 9 (SIGKILL)), log: {tmp_path}/p1.log" in lines
    assert "launch | process 2 did not end in 1 s after it; killed" in lines
    assert time.monotonic() - began < 30


def test_a_worker_left_behind_does_not_hold_the_parent(tmp_path):
    """A data worker keeps its dead parent's output open; it is ended with it."""
    code = """
        import os, subprocess, sys
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
        os._exit(3)
    """
    began = time.monotonic()
    supervisor, _, environs = supervise(tmp_path, code, count=1)
    assert supervisor.run(environs) == [ProcessExit(0, 3)] and time.monotonic() - began < 30


def test_signals_go_to_the_processes(tmp_path):
    code = """
        import signal, sys, time
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(42))
        print("ready", flush=True)
        time.sleep(60)
    """
    supervisor, lines, environs = supervise(tmp_path, code)

    def ask():
        while sum("ready" in line for line in lines) < 2:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    with supervisor.signals():
        threading.Thread(target=ask, daemon=True).start()
        deaths = supervisor.run(environs)
    assert [death.code for death in deaths] == [42, 42] and supervisor.received == signal.SIGTERM


# The secret of each is zzz.
SECRET_URLS = (
    "https://user:zzz@host/path",
    "https://zzz@host.example:8443/a?b=c",
    "s3://key:zzz@bucket/a",
    "https://host/a?token=zzz",
    "https://host/a?x=1&access_token=zzz&y=2#part",
    "https://bucket.example/o?X-Amz-Credential=zzz&X-Amz-Signature=zzz&X-Amz-Expires=9",
    "https://account.example/c?sv=2022&sig=zzz",
)
PLAIN_URLS = (
    "https://host/a@b?max_tokens=5&tokenizer=bytes&signal=term",
    "gs://bucket/a:b/c@d",
    "ssh://git@host/repository",
    "http://127.0.0.1:8080/a",
    "see https://host: it has user@host and token=5",
)


def test_secrets_in_urls_are_hidden_and_the_rest_stays():
    for environ in ({}, {"HF_TOKEN": "hf_short_but_secret"}):
        hide = hider(environ)
        assert hide(f"cloning {SECRET_URLS[0]} now") == "cloning https://user:***@host/path now"
        assert hide(SECRET_URLS[4]) == "https://host/a?x=1&access_token=***&y=2#part"
        assert not any("zzz" in hide(url) for url in SECRET_URLS)
        assert all(hide(text) == text for text in PLAIN_URLS)
        nested = {"base": {"path": SECRET_URLS[0]}, "data": {"files": (SECRET_URLS[3], "a.txt")}}
        assert redacted(nested, environ) == {
            "base": {"path": "https://user:***@host/path"},
            "data": {"files": ["https://host/a?token=***", "a.txt"]},
        }
    refuse_secrets([f"--config.base.path={url}" for url in PLAIN_URLS], {})


def test_secrets_are_hidden_and_refused(tmp_path):
    environ = {"WANDB_API_KEY": "abcdef0123456789", "HF_TOKEN": "hf_short_but_secret", "HOME": "/root/home"}
    assert hider(environ)("key abcdef0123456789 in /root/home") == "key *** in /root/home"
    refuse_secrets(["--config.data.max_tokens=5", "--config.tokenizer.kind=bytes"], environ)
    refuse_secrets(["--config.model.feedforward.experts_per_token=2"], environ)
    for word in (
        "--config.name=abcdef0123456789",
        "--config.log.wandb_api_key=zzz",
        "--config.log.token=zzz",
        "--config.log.password.value=zzz",
        "--config.data.tfds={'api_key': 'zzz'}",
        *(f"--config.base.path={url}" for url in SECRET_URLS),
        *SECRET_URLS,
    ):
        with pytest.raises(ConfigError) as error:
            refuse_secrets([word], environ)
        assert "abcdef" not in str(error.value) and "zzz" not in str(error.value)


def test_moves_by_exit_code():
    assert next_move(42) == RestartDecision(again=True, counts=False)
    assert next_move(170) == next_move(137) == next_move(134) == RestartDecision(again=True, counts=True)
    assert not any(next_move(code).again for code in (1, 2, 64, 73, 74, 75, 76, 77, 78, 130))
    named = {
        value
        for name, value in vars(errors).items()
        if name.isupper() and name[0] != "_" and isinstance(value, int)
    }
    assert named <= set(exits.MEANINGS)


def test_the_page_of_exit_codes_is_the_table():
    assert exits.table() in (ROOT / "launch" / "EXIT_CODES.md").read_text()


@pytest.fixture
def runs(monkeypatch, tmp_path):
    """Runs `local.run` on planned exit codes; returns (code, number of starts)."""

    def run(codes, restarts=2):
        left = list(codes)

        def planned(self, environs):
            return [ProcessExit(0, left.pop(0))]

        monkeypatch.setattr(Supervisor, "run", planned)
        monkeypatch.setattr(threading.Event, "wait", lambda self, pause=None: False)
        job = LaunchJob("a", "quickstart:tiny", (), str(tmp_path / "run"), None)
        return local.run(job, LocalOptions(restarts=restarts), tmp_path), len(codes) - len(left)

    return run


def test_restarts_by_exit_code(runs):
    assert runs([42, 42, 42, 137, 170, 0]) == (0, 6)  # preemptions are free
    assert runs([77, 0]) == (77, 1)
    assert runs([137, 137, 137, 0]) == (137, 3)


def test_each_process_finds_who_it_is():
    one = local.environs({"A": "b"}, LocalOptions(), 5)
    assert one == [{"A": "b"}]
    two = local.environs({}, LocalOptions(processes=2, devices=2), 5)
    assert [own["TLX_PROCESS_ID"] for own in two] == ["0", "1"]
    assert [own["CUDA_VISIBLE_DEVICES"] for own in two] == ["0,1", "2,3"]
    assert two[1]["TLX_COORDINATOR"] == "127.0.0.1:5" and two[1]["JAX_NUM_CPU_DEVICES"] == "2"


@pytest.mark.long
@pytest.mark.parametrize("kind", ["gs", "s3"])
def test_two_processes_train_in_a_bucket_and_resume_there(tmp_path, monkeypatch, kind):
    """All of the run is there, compiled programs too; the launcher's logs are on this machine."""
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    config = tiny.write_config(tmp_path)
    run = stores.place(kind, tmp_path)
    for steps in (6, 12):
        words = [
            "launch",
            "local",
            f"--config={config}:clm",
            "--name=run",
            f"--workdir={run}",
            "--processes=2",
        ]
        words += ["--devices=1", f"--config.train.steps={steps}", "--config.eval.final=False"]
        done = subprocess.run(
            [sys.executable, "-m", "tlx", *words], cwd=tmp_path, capture_output=True, text=True, timeout=580
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert (run / "checkpoints" / str(steps) / "tlx_manifest.json").exists()
    assert [line["step"] for line in read_lines(run / "events.jsonl") if line["event"] == "resume"] == [6]
    assert places.list_files(run / "compilation-cache")
    assert (tmp_path / "launched" / "run" / "logs" / "p1.log").is_file()
    assert not [name for name in os.listdir(tmp_path) if name.startswith(kind)]
