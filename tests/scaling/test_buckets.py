"""Ladders in buckets: the ledger of one in a folder, whatever is killed, and one writer at a time."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests import stores
from tests.scaling.test_running import ROOT, planned
from tests.tiers import tiers
from tlx import cli
from tlx.base import place as places
from tlx.base.errors import LeaseError
from tlx.scaling import load_runs
from tlx.scaling.ledger import Ledger
from tlx.scaling.running import run, status
from tlx.training.journal import read_lines

# As test_running's trainer, with whole objects: a line of steps.txt is an object here.
_TRAINER = """
import json, pathlib, sys, time
from tlx.base import place as places

workdir = places.parse(sys.argv[1])
config = json.loads(pathlib.Path(sys.argv[2]).with_name("planned.json").read_text())
print("trains", flush=True)
places.write(workdir / "starts" / str(time.time_ns()), b"x")
if config["optimizer"]["learning_rate"] > config["does"].get("diverges_above", 1):
    sys.exit(76)
done = max((int(path.name) for path in (workdir / "checkpoints").iterdir()), default=0)
for step in range(done + 1, config["train"]["steps"] + 1):
    time.sleep(0.05)
    for name in ("commit_success.txt", "tlx_manifest.json"):
        places.write(workdir / "checkpoints" / str(step) / name, b"x")
places.write(workdir / "run.json", json.dumps({"data": {"train_tokens": 1000}}).encode())
line = {"kind": "validation", "step": config["train"]["steps"], "loss": 3.0 - config["optimizer"]["learning_rate"]}
places.write(workdir / "metrics.jsonl", (json.dumps(line | {"bits_per_byte": 2.0}) + "\\n").encode())
places.write(workdir / "events.jsonl", b'{"event": "end"}\\n')
"""


@pytest.fixture
def backend(tmp_path, monkeypatch):
    path = tmp_path / "trainer.py"
    path.write_text(_TRAINER)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("TLX_CACHE", str(tmp_path / "cache"))
    return f"command:{sys.executable} {path} {{workdir}} {{config}}"


@pytest.mark.filterwarnings("ignore:.*flops is read from the column")
def test_a_ladder_in_a_bucket_has_the_ledger_of_one_in_a_folder(tmp_path):
    plan = planned({}, {}, {})
    folder = stores.place("folder", tmp_path)
    bucket = stores.place("memory", tmp_path)
    for place in (folder, bucket):
        run(plan, place, "simulate")
        run(None, str(place), "simulate")
    assert (bucket / "ledger.jsonl").read_bytes() == (folder / "ledger.jsonl").read_bytes()
    assert status(bucket) == status(folder)
    assert load_runs(str(bucket))["loss"].tolist() == load_runs(folder)["loss"].tolist()
    with (
        Ledger(bucket).writer(),
        pytest.raises(LeaseError, match="another `tlx scale run` works on memory://"),
    ):
        run(None, bucket, "simulate")
    assert not (bucket / "lease.json").exists()
    # One that was stopped for longer than a lease lasts writes nothing.
    ledger = Ledger(bucket)
    with ledger.writer():
        places.write(bucket / "lease.json", json.dumps({"id": "another"}).encode())
        with pytest.raises(LeaseError, match="lost to"):
            ledger.record(plan["runs"][0], "failed", {"exit": 1})


_DRIVER = "import sys; from tlx.scaling.running import run; run(None, sys.argv[1], sys.argv[2], parallel=2)"


@pytest.mark.parametrize("kind", tiers(["s3", "gs"], slow=["s3"]))
def test_a_ladder_killed_twice_in_a_bucket_ends_as_one_that_was_not(tmp_path, backend, kind):
    plan = planned({}, {"diverges_above": 0.07}, {}, {}, steps=6)
    calm = stores.place("memory", tmp_path)
    Ledger(calm).start(plan)
    killed = stores.place(kind, tmp_path)
    Ledger(killed).start(plan)
    for steps in (3, 14):  # of all runs together
        driver = subprocess.Popen([sys.executable, "-c", _DRIVER, str(killed), backend])
        deadline = time.monotonic() + 120
        while sum(name.endswith("manifest.json") for name in places.list_files(killed)) < steps:
            assert driver.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
    left = status(killed)["left"]
    assert left > 0
    ended = [line["run"] for line in Ledger(killed).lines()]
    before = {name for name in places.list_files(killed) if "/starts/" in name}
    run(None, killed, backend, parallel=2)
    since = {name for name in places.list_files(killed) if "/starts/" in name} - before
    assert not [name for name in since if name.split("/")[1] in ended], "runs that had ended are not started"
    assert [line["status"] for line in Ledger(killed).lines()] == ["done", "diverged", "done", "done", "done"]
    assert [line["loss"] for line in Ledger(killed).lines()] == [2.9, None, 2.95, 2.9, 2.9]
    events = [line["event"] for line in read_lines(killed / "events.jsonl")]
    # What a kill took of the events of its last two seconds is lost, and no more.
    assert events.count("start") >= 5 and events.count("exit") >= left
    assert b"trains" in (killed / "runs" / plan["runs"][0]["run"] / "log.txt").read_bytes()


@pytest.mark.parametrize("kind", tiers(["gs", "s3"], slow=[]))
def test_the_verbs_take_a_place(tmp_path, capsys, kind):
    folder = stores.place(kind, tmp_path)
    words = ["--config=configs/scaling/quickstart.py:tiny", f"--folder={folder}"]
    assert cli.main(["scale", "plan", *words]) == 0
    assert f"written to {folder}/plan.json" in capsys.readouterr().out
    assert cli.main(["scale", "run", words[1], "--backend=simulate:0.002"]) == 0
    assert cli.main(["scale", "status", f"--folder={folder}"]) == 0
    assert "0 left" in capsys.readouterr().out
    code = cli.main(["scale", "fit", f"--folder={folder}", "--json", "--boot=5"])
    fitted = capsys.readouterr().out
    assert code == cli.main(["scale", "fit", f"--runs={folder}/ledger.jsonl", "--json", "--boot=5"])
    assert capsys.readouterr().out == fitted
    cli.main(["scale", "report", f"--folder={folder}", "--boot=5"])
    assert f"report: {folder}/report/index.html" in capsys.readouterr().out
    assert b"<h1>Scaling law" in (folder / "report" / "index.html").read_bytes()
