"""The runner of processes, with a trainer of milliseconds: what it starts, and what it never repeats."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from tlx.base.errors import CONFIG, NUMERICS, ConfigError, LeaseError
from tlx.base.files import sha256_json
from tlx.scaling.ledger import Ledger
from tlx.scaling.running import run, status

ROOT = pathlib.Path(__file__).parents[2]

# Trains: a line of steps.txt for every step, from where the last start left off; starts.txt one a start.
_TRAINER = """
import json, os, pathlib, signal, sys, time

folder = pathlib.Path(sys.argv[1])
config = json.loads((folder / "planned.json").read_text())
does, lr = config["does"], config["optimizer"]["learning_rate"]
with open(folder / "starts.txt", "a") as file:
    print(os.getpid(), file=file, flush=True)
if lr > does.get("diverges_above", 1):
    sys.exit({numerics})
if "exits" in does:
    sys.exit(does["exits"])
done = max((int(path.name) for path in folder.glob("checkpoints/*")), default=0)
for step in range(done + 1, config["train"]["steps"] + 1):
    time.sleep(does.get("seconds", 0))
    with open(folder / "steps.txt", "a") as file:
        print(step, file=file, flush=True)
    (folder / "checkpoints" / str(step)).mkdir(parents=True)
    for name in ("commit_success.txt", "tlx_manifest.json"):
        (folder / "checkpoints" / str(step) / name).touch()
    with open(folder / "metrics.jsonl", "a") as file:
        print(json.dumps({{"kind": "train", "step": step, "tokens_per_s": 100.0}}), file=file, flush=True)
    if step in does.get("dies_after", ()):
        os.kill(os.getpid(), signal.SIGKILL)
(folder / "run.json").write_text(json.dumps({{"data": {{"train_tokens": 1000}}}}))
line = {{"kind": "validation", "step": config["train"]["steps"], "loss": 3.0 - lr, "bits_per_byte": 2.0}}
with open(folder / "metrics.jsonl", "a") as file:
    print(json.dumps(line), file=file, flush=True)
with open(folder / "events.jsonl", "a") as file:
    print(json.dumps({{"event": "end"}}), file=file, flush=True)
"""


@pytest.fixture
def backend(tmp_path):
    path = tmp_path / "trainer.py"
    path.write_text(_TRAINER.format(numerics=NUMERICS))
    return f"command:{sys.executable} {path} {{workdir}} # {{config}}"


def planned(*behaviours, steps=4):
    """A plan with a run for every behaviour, the later ones larger."""
    rows = []
    for i, does in enumerate(behaviours):
        config = {"optimizer": {"learning_rate": 0.1}, "train": {"steps": steps}, "does": does, "seed": i}
        row = {"run": sha256_json(config)[:12], "N": 100 * (i + 1), "D": 10 * steps, "steps": steps}
        row |= {"flops": 6e3 * (i + 1) * steps, "lr": 0.1, "seed": i, "batch_tokens": 10}
        rows.append(row | {"budget": 1e4, "memory_bytes": 1, "seconds": 1.0, "config": config})
    return {"runs": rows}


def words(folder, row, name):
    path = pathlib.Path(folder) / "runs" / row["run"] / name
    return path.read_text().split() if path.exists() else []


def test_every_run_is_made_once_in_the_plans_order_and_never_again(tmp_path, backend):
    plan = planned({}, {}, {})
    lines = run(plan, tmp_path, backend, parallel=2)
    assert [line["run"] for line in lines] == [row["run"] for row in plan["runs"]]
    assert all(line["status"] == "done" and line["loss"] == 2.9 for line in lines)
    assert all("config" not in line and line["D_unique"] == 1000 for line in lines)
    before = (tmp_path / "ledger.jsonl").read_bytes()
    assert run(None, tmp_path, backend) == lines and (tmp_path / "ledger.jsonl").read_bytes() == before
    assert all(len(words(tmp_path, row, "starts.txt")) == 1 for row in plan["runs"])
    found = status(tmp_path)
    assert (found["done"], found["left"], found["seconds_left"]) == (3, 0, 0.0)


def test_the_work_left_counts_the_compilation_of_each_run_that_waits(tmp_path):
    """One run has ended, 4 s of steps after 30 s of other work; two wait, of two and three times its FLOPs."""
    plan = planned({}, {}, {})
    ledger = Ledger(tmp_path)
    ledger.start(plan)
    first = ledger.rows()[0]
    folder = ledger.run_folder(first)
    folder.mkdir(parents=True)
    lines = [{"kind": "train", "step": step, "tokens_per_s": 10.0} for step in (3, 4)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with ledger.writer():
        ledger.record(first, "done", {"loss": 3.0, "D_unique": 40})
    assert status(tmp_path)["seconds_left"] == pytest.approx(5 * 4)
    seconds = {"compile": 25.0, "prepare": 5.0, "data": 1.0, "step": 3.0}
    (folder / "events.jsonl").write_text(json.dumps({"event": "end", "time": 0.0, "seconds": seconds}) + "\n")
    assert status(tmp_path)["seconds_left"] == pytest.approx(5 * 4 + 2 * 30)


@pytest.mark.slow
def test_a_run_that_died_goes_on_from_where_it_stood(tmp_path, backend):
    plan = planned({"dies_after": [1, 3]})
    (line,) = run(plan, tmp_path, backend)
    (row,) = plan["runs"]
    assert line["status"] == "done"
    assert words(tmp_path, row, "steps.txt") == ["1", "2", "3", "4"]
    assert len(words(tmp_path, row, "starts.txt")) == 3


@pytest.mark.slow
def test_a_run_that_dies_is_given_up_only_where_it_gets_nowhere(tmp_path, backend, monkeypatch):
    monkeypatch.setattr("tlx.scaling.running._MOST_STARTS", 2)
    plan = planned({"dies_after": [1, 2, 3]}, {"exits": 143})
    forward, stuck = run(plan, tmp_path, backend, parallel=2)
    assert forward["status"] == "done" and len(words(tmp_path, forward, "starts.txt")) == 4
    assert (stuck["status"], stuck["exit"]) == ("failed", 143)
    assert len(words(tmp_path, stuck, "starts.txt")) == 2


def test_what_diverges_is_recorded_and_tried_once_with_half_the_rate(tmp_path, backend):
    plan = planned({"diverges_above": 0.07}, {"diverges_above": 0.01}, {})
    lines = run(plan, tmp_path, backend)
    assert [(line["status"], line["lr"]) for line in lines] == [
        ("diverged", 0.1),
        ("done", 0.05),
        ("diverged", 0.1),
        ("diverged", 0.05),
        ("done", 0.1),
    ]
    assert lines[0]["loss"] is None and lines[1]["retry_of"] == lines[0]["run"] and lines[1]["loss"] == 2.95
    assert all(len(words(tmp_path, line, "starts.txt")) == 1 for line in lines)
    found = status(tmp_path)
    assert (found["done"], found["diverged"], found["left"]) == (2, 3, 0)


def test_a_branch_waits_for_its_trunk_and_makes_its_own_steps_only(tmp_path, backend):
    plan = planned({"seconds": 0.05}, {})
    trunk, branch = plan["runs"]
    branch |= {"trunk": trunk["run"], "from_step": 2, "spent": branch["flops"] / 2}
    lines = run(plan, tmp_path, backend, parallel=2)
    assert [line["status"] for line in lines] == ["done", "done"]
    assert words(tmp_path, trunk, "steps.txt") == ["1", "2", "3", "4"]
    assert words(tmp_path, branch, "steps.txt") == ["3", "4"]


def test_a_branch_whose_trunk_never_came_so_far_is_made_whole_and_a_retry_too(tmp_path, backend):
    plan = planned({"diverges_above": 0.01}, {"diverges_above": 0.07})
    trunk, branch = plan["runs"]
    branch |= {"trunk": trunk["run"], "from_step": 2, "spent": branch["flops"] / 2}
    *_, tried, again = run(plan, tmp_path, backend)
    assert (tried["status"], again["status"], again["lr"]) == ("diverged", "done", 0.05)
    assert words(tmp_path, again, "steps.txt") == ["1", "2", "3", "4"] and "trunk" not in again


def test_an_error_of_the_config_is_not_tried_again(tmp_path, backend):
    said = []
    (line,) = run(planned({"exits": CONFIG}), tmp_path, backend, say=said.append)
    assert (line["status"], line["exit"]) == ("failed", CONFIG)
    assert len(words(tmp_path, line, "starts.txt")) == 1 and "log.txt" in said[-1]


def test_two_runners_refuse_each_other_and_other_plans(tmp_path, backend):
    with Ledger(tmp_path).writer(), pytest.raises(LeaseError, match="another"):
        run(planned({}), tmp_path, backend)
    run(planned({}), tmp_path, backend)
    with pytest.raises(ConfigError, match="holds another plan: 1 of 1"):
        run(planned({"seconds": 0.01}), tmp_path, backend)
    with pytest.raises(ConfigError, match="needs {config}"):
        run(None, tmp_path, "command:true")
    with pytest.raises(ConfigError, match="backend"):
        run(None, tmp_path, "slurm")


_DRIVER = "import sys; from tlx.scaling.running import run; run(None, sys.argv[1], sys.argv[2], parallel=2)"


@pytest.mark.slow
def test_a_ladder_killed_twice_ends_with_the_ledger_of_one_that_was_not(tmp_path, backend):
    plan = planned(*[{"seconds": 0.05}] * 4, steps=6)
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    run(plan, calm, backend, parallel=4)
    Ledger(killed).start(plan)
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    for kill in range(2):
        driver = subprocess.Popen([sys.executable, "-c", _DRIVER, killed, backend], env=environ)
        steps = 3 + 9 * kill  # of all runs together
        _until(lambda steps=steps: sum(len(words(killed, r, "steps.txt")) for r in plan["runs"]) >= steps)
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
        for row in plan["runs"]:  # the driver's children have died with it
            for pid in words(killed, row, "starts.txt"):
                _until(lambda pid=pid: not _alive(int(pid)))
    assert status(killed)["left"] > 0
    run(None, killed, backend, parallel=2)
    assert (killed / "ledger.jsonl").read_bytes() == (calm / "ledger.jsonl").read_bytes()
    starts = 0
    for row in plan["runs"]:
        assert words(killed, row, "steps.txt") == [str(step) for step in range(1, 7)]
        starts += len(words(killed, row, "starts.txt"))
    assert 6 <= starts <= 8  # two more for each kill at the most, none for runs that had ended


def _alive(pid: int) -> bool:
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _until(holds, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_the_ledger_is_a_table_that_fit_reads(tmp_path, backend):
    from tlx.scaling import load_runs

    run(planned({}, {"diverges_above": 0.07}), tmp_path, backend)
    with pytest.warns(UserWarning, match="1 of 3 runs are not done"):
        table = load_runs(tmp_path)
    assert table["N"].tolist() == [100, 200] and table["lr"].tolist() == [0.1, 0.05]
    assert json.loads((tmp_path / "ledger.jsonl").read_text().split("\n")[0])["budget"] == 1e4


# Scores a run's checkpoints: the accuracy of the task "right" is the fraction of the steps that are done.
_SCORER = """
import json, pathlib, sys

folder, asked = pathlib.Path(sys.argv[1]), json.loads(pathlib.Path(sys.argv[2]).read_text())
with open(folder / "scorings.txt", "a") as file:
    print(*asked["steps"], file=file)
if (folder / "unreadable").exists():
    sys.exit(65)
steps = json.loads((folder / "planned.json").read_text())["train"]["steps"]
scores = {step: {f"{name}/accuracy": step / steps for name in asked["tasks"]} for step in asked["steps"]}
(folder / "task_scores.json").write_text(json.dumps(scores))
"""


def test_tasks_of_a_ladder_are_scored_once_and_stand_in_its_tables(tmp_path, backend, monkeypatch):
    (tmp_path / "scorer.py").write_text(_SCORER)
    monkeypatch.setattr("tlx.scaling.running._SCORER", (sys.executable, str(tmp_path / "scorer.py")))
    plan = planned({}, {})
    folder = tmp_path / "ladder"
    run(plan, folder, backend)
    assert "right/accuracy" not in (folder / "ledger.jsonl").read_text()
    # Tasks may be added to runs that have ended; the second has a checkpoint in its middle, whose loss is known.
    plan["tasks"] = {"right": "harness:right"}
    first, second = plan["runs"]
    stored = json.loads((folder / "plan.json").read_text())
    stored["runs"][1]["config"] |= {"checkpoint": {"keep_at": [2]}, "eval": {"every": 2}}
    (folder / "plan.json").write_text(json.dumps(stored))
    middle = {"kind": "validation", "step": 2, "loss": 3.5, "bits_per_byte": 2.5}
    with open(folder / "runs" / second["run"] / "metrics.jsonl", "a") as file:
        file.write(json.dumps(middle) + "\n")
    (folder / "runs" / first["run"] / "unreadable").touch()
    said = []
    run(plan, folder, backend, say=said.append)
    assert any("tasks failed: exit 65" in text for text in said) and status(folder)["unscored"] == 1
    (folder / "runs" / first["run"] / "unreadable").unlink()
    lines = run(None, folder, backend)
    assert [line["right/accuracy"] for line in lines] == [1.0, 1.0] and status(folder)["unscored"] == 0
    points = [json.loads(line) for line in (folder / "checkpoints.jsonl").read_text().splitlines()]
    assert [(p["D"], p["loss"], p["right/accuracy"]) for p in points] == [(20, 3.5, 0.5), (40, 2.9, 1.0)]
    before = (folder / "ledger.jsonl").read_bytes()
    run(None, folder, backend)
    assert (folder / "ledger.jsonl").read_bytes() == before
    assert words(folder, first, "scorings.txt") == ["4", "4"] and words(folder, second, "scorings.txt") == [
        "2",
        "4",
    ]
    with pytest.raises(ConfigError, match="simulate trains no model"):
        run(None, folder, "simulate")
