"""run.json and what a later start may change."""

import json

import pytest

from tlx.base.errors import ConfigError, DataError
from tlx.training import directory

OLD = {
    "name": "a",
    "model": {"width": 128, "execution": {"remat": "none"}},
    "train": {"steps": 10},
    "seed": 1,
}


def changed(allow=(), **new):
    config = json.loads(json.dumps(OLD)) | new
    return directory.changes(OLD, config, allow)


def test_longer_and_other_execution_are_allowed():
    found = changed(train={"steps": 20}, model={"width": 128, "execution": {"remat": "full"}}, name="b")
    assert {change.key: change.allowed for change in found} == {
        "train.steps": True,
        "model.execution.remat": True,
        "name": True,
    }
    directory.check_changes(found, "runs/x")


def test_another_model_is_refused_with_a_table(tmp_path):
    found = changed(model={"width": 256, "execution": {"remat": "none"}}, train={"steps": 5}, seed=1)
    with pytest.raises(ConfigError) as error:
        directory.check_changes(found, tmp_path)
    lines = str(error.value).splitlines()
    assert [line.split() for line in lines[1:4]] == [
        ["key", "was", "now"],
        ["model.width", "128", "256", "refused"],
        ["train.steps", "10", "5", "refused"],
    ]
    assert "--allow-change=model.width --allow-change=train.steps" in lines[-1]


@pytest.mark.parametrize("flag", ["model.width", "model"])
def test_a_flag_allows_a_key_or_its_group(flag):
    found = changed([flag], model={"width": 256, "execution": {"remat": "none"}})
    assert all(change.allowed for change in found)
    assert not changed(["mod"], model={"width": 256, "execution": {"remat": "none"}})[0].allowed


def test_a_key_that_only_one_side_has():
    (change,) = changed(extra=3)
    assert change == ("extra", None, 3, False)


def test_run_json_round_trip_and_format(tmp_path):
    assert directory.read_run(tmp_path) is None
    directory.write_run(tmp_path, OLD, "hash", {"train": "f"}, {"data": 8}, 5)
    run = directory.read_run(tmp_path)
    assert run["config"] == OLD | {
        "train": OLD["train"] | {"max_rollbacks": 0, "clip_groups": ()}
    }  # saved before there was the key
    assert run["versions"]["jax"] and run["format"] == directory.FORMAT
    directory.write_run(tmp_path, OLD, "hash", {"train": "f"}, {"data": 4}, 5)
    assert directory.read_run(tmp_path)["created"] == run["created"]
    (tmp_path / "run.json").write_text(json.dumps(run | {"format": 99}))
    with pytest.raises(DataError, match="format 99"):
        directory.read_run(tmp_path)


def test_a_new_learning_rate_in_the_middle_is_named_and_explained(tmp_path):
    old = {"optimizer": {"learning_rate": 1.0}, "train": {"steps": 10}}
    found = directory.changes(old, {**old, "optimizer": {"learning_rate": 0.5}})
    with pytest.raises(ConfigError, match="--allow-change=optimizer.learning_rate .*of the new schedule"):
        directory.check_changes(found, tmp_path)
