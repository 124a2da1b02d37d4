"""A ladder begun by a version whose configs had other keys goes on, under the ids that it has.

ladder_format_1.tar.xz is configs/scaling/quickstart.py:tiny as it was planned when run.json had format 1,
with a stand-in for training, and killed on the way: three runs had ended, one had diverged and its retry had
ended, and one had been started.
"""

import pathlib
import runpy
import sys
import tarfile

import pytest

from tests.cli.tiny import ROOT
from tlx import cli
from tlx.base.files import read_json, write_json
from tlx.scaling.ledger import Ledger
from tlx.scaling.planning import plan
from tlx.scaling.running import run
from tlx.training.journal import read_lines

ARCHIVE = pathlib.Path(__file__).with_name("ladder_format_1.tar.xz")
NAME = "scaling/quickstart:tiny"

# Ends at once. The config must be one that tlx reads today.
_TRAINER = """
import json, pathlib, sys
from tlx.base.config import from_dict
from tlx.models.config import ModelConfig

folder = pathlib.Path(sys.argv[1])
config = json.loads((folder / "planned.json").read_text())
from_dict(ModelConfig, config["model"])
with open(folder / "starts.txt", "a") as file:
    print("again", file=file)
(folder / "run.json").write_text(json.dumps({"data": {"train_tokens": 1000}}))
line = {"kind": "validation", "step": config["train"]["steps"], "loss": 2.0, "bits_per_byte": 2.0}
with open(folder / "metrics.jsonl", "a") as file:
    print(json.dumps(line), file=file)
with open(folder / "events.jsonl", "a") as file:
    print(json.dumps({"event": "end"}), file=file)
"""


@pytest.fixture
def folder(tmp_path):
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "ladder"


@pytest.fixture
def backend(tmp_path):
    path = tmp_path / "trainer.py"
    path.write_text(_TRAINER)
    return f"command:{sys.executable} {path} {{workdir}} # {{config}}"


def starts(folder):
    return {path.parent.name: len(path.read_text().split()) for path in folder.glob("runs/*/starts.txt")}


def of_today(**changes):
    """The plan that today's version makes of the same config."""
    config = runpy.run_path(str(ROOT / "configs/scaling/quickstart.py"))["get_config"]("tiny")
    config.ladder.update(changes)
    return plan(config.ladder.to_dict(), config.run, memory=False)


@pytest.mark.slow
def test_a_ladder_of_format_1_goes_on_and_makes_no_run_twice(folder, backend):
    stored, before = read_json(folder / "plan.json"), starts(folder)
    done = {line["run"]: line for line in read_lines(folder / "ledger.jsonl")}
    lines = run(of_today(), folder, backend)
    assert read_json(folder / "plan.json") == stored
    ids = [row["run"] for row in stored["runs"]]
    (retry,) = [line["run"] for line in done.values() if line.get("retry_of")]
    assert [line["run"] for line in lines if line["run"] != retry] == ids
    assert all(line == done[line["run"]] for line in lines if line["run"] in done)
    after = starts(folder)
    assert after.keys() == {*ids, retry}
    assert all(after[run] == before[run] for run in done)
    assert all(after[run] == before.get(run, 0) + 1 for run in after.keys() - done.keys())


@pytest.mark.slow
def test_it_goes_on_without_its_config_too(folder, backend):
    lines = run(None, folder, backend)
    assert len(lines) == 10 and all(line["status"] in ("done", "diverged") for line in lines)


def test_a_key_that_was_added_since_changes_no_run(folder):
    ids = [row["run"] for row in read_json(folder / "plan.json")["runs"]]
    stored = read_json(folder / "plan.json")
    for row in stored["runs"]:
        del row["config"]["model"]["embedding"]["divisor"]
    write_json(folder / "plan.json", stored)
    planned = of_today()
    assert [row["run"] for row in planned["runs"]] != ids
    assert Ledger(folder).stored_runs(planned["runs"]) == ids


def test_another_plan_is_still_refused(folder, capsys):
    words = [f"--config={NAME}", f"--folder={folder}", "--backend=simulate"]
    assert cli.main(["scale", "run", *words, "--config.ladder.learning_rate=0.01"]) == 64
    assert "9 of 9 runs are not in it" in capsys.readouterr().err
    assert cli.main(["scale", "status", f"--folder={folder}", "--json"]) == 0
