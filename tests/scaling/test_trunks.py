"""Branches of one long run: what they cost, and that they are the runs they stand for."""

import runpy

import numpy as np
import pytest

from tests.cli.tiny import ROOT, finish, tlx, write_config
from tlx.base.errors import ConfigError
from tlx.base.files import read_json, sha256_json, write_json
from tlx.checkpoint import load_params
from tlx.scaling.ledger import Ledger
from tlx.scaling.planning import plan
from tlx.scaling.running import run
from tlx.training.journal import read_lines


def ladder(**changes):
    config = runpy.run_path(str(ROOT / "configs/scaling/quickstart.py"))["get_config"]("tiny")
    config.ladder.lr_tokens_power = 0.0
    config.ladder.update(changes)
    return plan(config.ladder.to_dict(), config.run, memory=False)


def test_runs_of_a_size_share_the_longest_and_pay_for_their_cooling():
    apart, joined = ladder(), ladder(cooldown_fraction=0.2)
    assert joined["total_flops"] < 0.8 * apart["total_flops"]
    rows = {row["run"]: row for row in joined["runs"]}
    branches = [row for row in joined["runs"] if "trunk" in row]
    assert branches and len(rows) == len(apart["runs"])
    for row in branches:
        trunk = rows[row["trunk"]]
        assert (row["width"], row["lr"]) == (trunk["width"], trunk["lr"]) and row["steps"] < trunk["steps"]
        assert row["from_step"] in trunk["config"]["checkpoint"]["keep_at"]
        assert row["steps"] - row["from_step"] == pytest.approx(0.2 * row["steps"], abs=1)
        assert row["spent"] == pytest.approx(0.2 * row["flops"], rel=0.1)
        assert row["run"] == sha256_json(row["config"])[:12]
        own, theirs = (r["config"]["optimizer"]["schedule"] for r in (row, trunk))
        assert own["warmup"] == theirs["warmup"] >= 1 and own["name"] == "wsd"


def test_what_trunks_cannot_have_is_said():
    with pytest.raises(ConfigError, match="lr_tokens_power = 0"):
        ladder(cooldown_fraction=0.2, lr_tokens_power=-0.4)
    with pytest.raises(ConfigError, match="cool down while it warms up"):
        ladder(cooldown_fraction=0.9, warmup_fraction=0.5)


@pytest.mark.long
def test_a_branch_ends_as_the_same_run_made_whole(tmp_path, monkeypatch):
    """Bit for bit, from the trunk's checkpoint, the cooled steps alone."""
    # As users compile: the emitters of tests/conftest.py round the schedule of another number of steps differently.
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    config = write_config(tmp_path)
    finish(tlx("train", f"--config={config}", f"--workdir={tmp_path / 'any'}", "--config.train.steps=1"))
    values = read_json(tmp_path / "any" / "run.json")["config"]
    rows = []
    for steps, at in ((20, [8]), (10, [])):
        values["train"]["steps"] = values["eval"]["every"] = steps
        values["optimizer"]["schedule"] |= {"name": "wsd", "warmup": 2, "cooldown": steps // 5}
        values["checkpoint"] |= {"every": 100, "keep": 1, "keep_at": at}
        row = {"run": sha256_json(values)[:12], "N": steps, "D": steps, "steps": steps, "flops": steps}
        row |= {"lr": 3e-3, "seed": 0, "batch_tokens": 256, "config": values, "memory_bytes": 1}
        rows.append(row)
        write_json(tmp_path / f"{steps}.json", row)
    trunk, whole = (read_json(tmp_path / f"{steps}.json") for steps in (20, 10))
    branch = whole | {"trunk": trunk["run"], "from_step": 8}
    run({"runs": [trunk, branch]}, tmp_path / "branched")
    run({"runs": [whole]}, tmp_path / "whole")
    lines = [Ledger(tmp_path / name).lines()[-1] for name in ("branched", "whole")]
    assert lines[0]["loss"] == lines[1]["loss"]
    events = [
        read_lines(tmp_path / name / "runs" / whole["run"] / "events.jsonl") for name in ("branched", "whole")
    ]
    assert [next(e["step"] for e in part if e["event"] == "start") for part in events] == [8, 0]
    ends = [
        load_params(tmp_path / name / "runs" / whole["run"] / "checkpoints") for name in ("branched", "whole")
    ]
    flat = [dict(leaves(end.tree)) for end in ends]
    assert flat[0].keys() == flat[1].keys()
    assert all(np.array_equal(flat[0][path], flat[1][path]) for path in flat[0])


def leaves(tree, path=""):
    for name, value in tree.items():
        yield from leaves(value, f"{path}/{name}") if isinstance(value, dict) else [(f"{path}/{name}", value)]
