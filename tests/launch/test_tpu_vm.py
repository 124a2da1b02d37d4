"""TPU VMs with a stand-in `gcloud` on PATH that keeps the state of made-up machines and notes every call."""

import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import time
import zipfile

import pytest

import tlx
from tests.cli import tiny
from tlx import cli
from tlx.base.errors import ConfigError
from tlx.launch.tpu_vm import WORKER, TpuVmOptions
from tlx.launch.wheel import build_command, wheel_name

# Its plan: states that `describe` gives, one after the other, the last for ever; one with a star until a start has
# ended or the machines are deleted, however often and fast they are asked about. And for each start what the workers
# print, how long that takes and how ssh ends.
GCLOUD = """#!{python}
import json, pathlib, sys, time
place = pathlib.Path({place!r})
with open(place / "calls", "a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + "\\n")
verb, words = sys.argv[4], " ".join(sys.argv[4:])
def take(name):
    plan = json.loads((place / name).read_text())
    if len(plan) > 1:
        (place / name).write_text(json.dumps(plan[1:]))
    return plan[0]
def stays():
    return json.loads((place / "states").read_text())[0].endswith("*")
if verb == "delete" and stays():
    take("states")
if verb == "describe":
    state = json.loads((place / "states").read_text())[0][:-1] if stays() else take("states")
    if state == "NOT_FOUND":
        sys.exit("ERROR: (gcloud...) NOT_FOUND: Resource was not found")
    print(state)
if verb == "ssh" and "worker.sh run" in words:
    text, seconds, code = take("starts")
    print(text, flush=True)
    time.sleep(seconds)
    if stays():
        take("states")
    sys.exit(code)
"""

LAUNCH = ("--name=llama", "--workdir=/mnt/runs/llama", "--accelerator=v5litepod-16", "--zone=us-west4-a")


class Cloud:
    """The stand-in and what was asked of it."""

    def __init__(self, place: pathlib.Path):
        self.place = place
        (place / "gcloud").write_text(GCLOUD.format(python=sys.executable, place=str(place)))
        (place / "gcloud").chmod(0o755)

    def plan(self, states, starts):
        # Two files: what runs beside each other would overwrite one.
        (self.place / "states").write_text(json.dumps(states))
        (self.place / "starts").write_text(json.dumps(starts))

    def asked(self):
        """Each call as "queued-resources create NAME" or "ssh NODE COMMAND"."""
        found = []
        for call in map(json.loads, (self.place / "calls").read_text().splitlines()):
            _, _, kind, verb, name, *flags = call
            ran = [flag.removeprefix("--command=") for flag in flags if flag.startswith("--command=")]
            found.append(" ".join([kind, verb, name, *ran]))
        return found

    def words(self):
        """Each call as one line."""
        return [" ".join(json.loads(call)) for call in (self.place / "calls").read_text().splitlines()]

    def starts(self):
        return sum(call.endswith("worker.sh run") for call in self.asked())


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    return Cloud(tmp_path / "bin")


def launch(*words, setup="--setup=true"):
    flags = [*LAUNCH, "--poll-seconds=0", setup, *words]
    return cli.main(["launch", "tpu-vm", "--config=quickstart:tiny", *flags])


def test_workers_install_a_wheel_by_its_path_and_no_name_of_an_index(cloud, capsys):
    cloud.plan(["ACTIVE"], [["tlx-exit 0 w-0", 0, 0]])
    wheel = cloud.place / f"tlx_lm-{tlx.__version__}-py3-none-any.whl"
    wheel.touch()
    assert launch(setup=f"--wheel={wheel}") == 0
    assert any(f"scp launched/llama/worker.sh {wheel}" in call for call in cloud.words())
    text = pathlib.Path("launched/llama/worker.sh").read_text()
    assert f"pip install -q './{wheel.name}[tpu]'" in text.replace("'\"'\"'", "'")
    assert not re.search(r"pip install[^\n]* .?tlx-lm", text)
    # Without one the checkout's own is built before any machine is asked for.
    assert launch("--dry-run", setup="--setup=") == 0
    commands = capsys.readouterr().out.partition("# ---- commands\n")[2].splitlines()
    assert f"-m pip wheel --quiet --no-deps --wheel-dir launched/llama {tiny.ROOT}" in commands[0]
    assert any(f"launched/llama/worker.sh launched/llama/{wheel.name} " in command for command in commands)
    assert launch(setup=f"--wheel={cloud.place / 'gcloud'}") == 64


@pytest.mark.long
def test_the_wheel_of_the_checkout_is_built_and_has_what_a_run_needs(tmp_path):
    subprocess.run(build_command(tmp_path), check=True)
    names = zipfile.ZipFile(tmp_path / wheel_name("")).namelist()
    assert {"tlx/cli/__init__.py", "tlx_packaged/launch/tpu_vm/worker.sh"} <= set(names)


def test_from_nothing_to_the_end(cloud, capfd):
    cloud.plan(
        ["NOT_FOUND", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"],
        [["step 1/9\ntlx-exit 0 w-0\ntlx-exit 0 w-1", 0, 0]],
    )
    assert launch("--spot") == 0
    assert [call for call in cloud.asked() if " describe " not in call] == [
        "queued-resources create llama",
        "tpu-vm ssh llama mkdir -p tlx-run",
        "tpu-vm scp launched/llama/worker.sh",
        "tpu-vm ssh llama bash tlx-run/worker.sh run",
        "queued-resources delete llama",
    ]
    (create,) = [c for c in (cloud.place / "calls").read_text().splitlines() if '"create"' in c]
    assert {"--spot", "--node-id=llama", "--accelerator-type=v5litepod-16", "--zone=us-west4-a"} <= set(
        json.loads(create)
    )
    assert "launch | llama: WAITING_FOR_RESOURCES\nlaunch | llama: PROVISIONING" in capfd.readouterr().out


def test_taken_away_it_asks_for_new_machines_under_the_same_name(cloud):
    """ssh breaks off without a word of how the run ended; afterwards the machines are gone."""
    cloud.plan(
        ["ACTIVE*", "SUSPENDED*", "DELETING", "NOT_FOUND", "WAITING_FOR_RESOURCES", "ACTIVE"],
        [["step 1/9\nConnection closed", 0, 255], ["tlx-exit 0 w-0", 0, 0]],
    )
    assert launch("--restarts=0") == 0
    kept = [call for call in cloud.asked() if call.startswith("queued-resources") and "describe" not in call]
    assert kept == [
        "queued-resources delete llama",
        "queued-resources create llama",
        "queued-resources delete llama",
    ]
    assert cloud.starts() == 2


def test_a_connection_that_hangs_is_given_up_when_the_machines_are_gone(cloud):
    cloud.plan(
        ["ACTIVE", "ACTIVE", "SUSPENDED", "SUSPENDED", "NOT_FOUND", "ACTIVE"],
        [["step 1/9", 300, 0], ["tlx-exit 0 w-0", 0, 0]],
    )
    began = time.monotonic()
    assert launch() == 0
    assert cloud.starts() == 2 and time.monotonic() - began < 60


@pytest.mark.slow
@pytest.mark.parametrize(
    "codes, last, starts",
    [([77], 77, 1), ([42, 42, 0], 0, 3), ([170, 137, 0], 137, 2), ([170, 0], 0, 2)],
)
def test_restarts_follow_the_exit_code_of_who_ended_first(cloud, codes, last, starts):
    texts = [f"tlx-exit {code} w-1\ntlx-exit {170 if code else 0} w-0" for code in codes]
    cloud.plan(["ACTIVE"], [[text, 0, 1] for text in texts])
    assert launch("--restarts=1", "--keep") == last
    assert cloud.starts() == starts
    assert not any("delete" in call for call in cloud.asked())


def test_two_slices_are_asked_for_together_and_started_each(cloud):
    cloud.plan(["NOT_FOUND", "ACTIVE"], [["tlx-exit 0 w", 0, 0]])
    assert launch("--slices=2") == 0
    create = (cloud.place / "calls").read_text()
    assert '"--node-count=2", "--node-prefix=llama"' in create and "--node-id" not in create
    assert {call.split()[2] for call in cloud.asked() if "worker.sh run" in call} == {"llama-0", "llama-1"}


@pytest.mark.slow
def test_asked_to_stop_it_lets_the_run_save_and_gives_the_machines_back(cloud):
    cloud.plan(["ACTIVE"], [["step 1/9", 2, 42]])
    words = ("launch", "tpu-vm", "--config=quickstart:tiny", *LAUNCH, "--poll-seconds=1", "--setup=true")
    process = subprocess.Popen(
        [sys.executable, "-m", "tlx", *words],
        cwd=cloud.place,
        env={**os.environ, "PYTHONPATH": str(tiny.ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    for line in process.stdout:
        if line.startswith("step 1"):
            break
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=180)
    asked = cloud.asked()
    assert any(call.endswith("worker.sh stop") for call in asked) and cloud.starts() == 1
    assert asked[-1] == "queued-resources delete llama"


def worker(tmp_path, command, setup="true"):
    """The rendered script with another command in place of tlx."""
    words = ["--grace-seconds=10", f"--render={tmp_path}"]
    assert launch(*words, setup="--setup=" + setup) == 0
    text = (tmp_path / WORKER).read_text()
    (line,) = [line for line in text.splitlines() if "tlx train" in line]
    (tmp_path / WORKER).write_text(text.replace(line, f"{command} &"))
    return ["bash", str(tmp_path / WORKER)]


def test_a_worker_says_how_it_ended(tmp_path):
    out = subprocess.run([*worker(tmp_path, "bash -c 'exit 77'"), "run"], capture_output=True, text=True)
    assert out.returncode == 77 and out.stdout.startswith("tlx-exit 77 ")
    out = subprocess.run([*worker(tmp_path, "true", setup="false"), "run"], capture_output=True, text=True)
    assert out.returncode == 64 and "the setup command failed with 1" in out.stdout


def test_a_worker_stops_and_a_new_start_ends_the_old(tmp_path):
    ready = tmp_path / "ready"
    code = (
        "import pathlib, signal, sys, time; signal.signal(15, lambda *_: sys.exit(42)); "
        f"pathlib.Path({str(ready)!r}).touch(); time.sleep(100)"
    )
    command = worker(tmp_path, f"{shlex.quote(sys.executable)} -c {shlex.quote(code)}")

    def start():
        process = subprocess.Popen([*command, "run"], stdout=subprocess.PIPE, text=True)
        while not ready.exists():
            time.sleep(0.05)
        ready.unlink(missing_ok=True)
        return process

    first = start()
    subprocess.run([*command, "stop"])
    assert first.communicate(timeout=180)[0].startswith("tlx-exit 42 ") and first.returncode == 42
    first = start()
    second = start()
    assert first.communicate(timeout=180)[0].startswith("tlx-exit 42 ")
    subprocess.run([*command, "stop"])
    assert second.communicate(timeout=180)[0].startswith("tlx-exit 42 ")


def test_the_words_of_the_run_reach_the_workers(cloud, capsys):
    words = ["--render=out", "--config.data.text.files=('/mnt/my text/*.txt',)"]
    assert launch(*words) == 0
    (line,) = [line for line in pathlib.Path("out", WORKER).read_text().splitlines() if "tlx train" in line]
    run = line.strip().removesuffix(" &").partition(" ")[2]
    assert shlex.split(run) == [
        *("tlx", "train", "--config=quickstart:tiny", "--config.data.text.files=('/mnt/my text/*.txt',)"),
        *("--config.name=llama", "--workdir=/mnt/runs/llama"),
    ]
    assert not (cloud.place / "calls").exists()


def test_wrong_options_are_refused(cloud, capsys):
    with pytest.raises(ConfigError, match="--zone is needed"):
        TpuVmOptions(accelerator="v5litepod-8").validate()
    assert launch("--workdir=runs/llama") == 64
    assert "must be gs://BUCKET/RUN, or an absolute path that all workers share" in capsys.readouterr().err
