"""Tasks of a ladder on a real run: its checkpoints are scored, and the table has them."""

import json
import random
import runpy

import pytest

from tests.cli.tiny import ROOT
from tlx.base.errors import ConfigError
from tlx.scaling import load_runs, run, task_scores
from tlx.scaling.planning import plan
from tlx.scaling.task_scores import read_tasks, task_name

_TASK = """
from tlx.evaluation.few_shot import FewShotConfig
from tlx.run.config import config_dict

def get_config(arg=""):
    config = config_dict(FewShotConfig())
    config.objective.prompt = "{text}"
    config.objective.choices = ("{true}", "{false}")
    config.objective.labels = ("0", "1")
    config.data.records.format = "tsv"
    config.data.records.train = config.data.records.validation = (RECORDS,)
    return config
"""


@pytest.fixture
def task(tmp_path):
    """Which of two endings is a line of Python, and which one is the same letters in another order?"""
    rng = random.Random(0)
    rows = ["text\ttrue\tfalse\tlabel"]
    lines = [line.strip() for line in (ROOT / "tlx/scaling/drift.py").read_text().splitlines()]
    for line in [line for line in lines if len(line) > 28 and '"' not in line][:60]:
        end = line[12:28]
        rows.append(f"{line[:12]}\t{end}\t{''.join(rng.sample(end, 16))}\t0")
    (tmp_path / "endings.tsv").write_text("\n".join(rows) + "\n")
    (tmp_path / "endings.py").write_text(_TASK.replace("RECORDS", repr(str(tmp_path / "endings.tsv"))))
    return str(tmp_path / "endings.py")


@pytest.mark.slow
def test_a_real_run_is_scored_at_two_checkpoints(task, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "1")  # of the processes that it starts
    config = runpy.run_path(str(ROOT / "configs/scaling/quickstart.py"))["get_config"]("tiny")
    ladder = config.ladder.to_dict() | {"budgets": (4e9,), "tasks": (task,), "task_points": 2}
    planned = plan(ladder, config.run, memory=False)
    assert all(row["steps"] % 2 == 0 for row in planned["runs"])
    planned["runs"] = planned["runs"][:1]
    (line,) = run(planned, tmp_path / "ladder")
    points = [json.loads(text) for text in (tmp_path / "ladder/checkpoints.jsonl").read_text().splitlines()]
    assert [point["D"] for point in points] == [line["D"] // 2, line["D"]]
    assert points[1]["loss"] == line["loss"] < points[0]["loss"]
    assert points[1]["endings/accuracy"] == line["endings/accuracy"] > 0.6 and line["endings/items"] == 60
    assert 0.5 < points[0]["endings/probability"] < points[1]["endings/probability"] < 1
    table = load_runs(tmp_path / "ladder/checkpoints.jsonl")
    assert table["endings/accuracy"].tolist() == [point["endings/accuracy"] for point in points]


def test_tasks_are_read_when_the_ladder_is_planned(task, monkeypatch):
    monkeypatch.setattr(task_scores, "check_task_names", lambda field, names: None)  # takes seconds
    assert list(read_tasks((task, "harness:arc_easy"))) == ["endings", "arc_easy"]
    assert task_name("evaluate/sentence_polarity:tiny") == "sentence_polarity-tiny"
    with pytest.raises(ConfigError, match="two tasks are called 'endings'"):
        read_tasks((task, task))
    with pytest.raises(ConfigError):
        read_tasks(("configs/scaling/quickstart.py",))


@pytest.mark.slow
def test_a_name_of_the_harness_is_checked_when_the_ladder_is_planned():
    """In the harness's own list, which it takes seconds to make."""
    pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'tlx-lm[harness]'")
    with pytest.raises(ConfigError, match="ladder.tasks: lm-eval .* has no task 'arc_eazy'; .*arc_easy"):
        read_tasks(("harness:arc_challenge", "harness:arc_eazy"))
