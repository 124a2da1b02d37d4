"""Runs that were saved before a key existed go on as they began."""

import json

import pytest

from tests.make_golden_run import _CONFIG, FOLDER, unpack
from tests.run_directory import run_file
from tlx.base.config import to_dict
from tlx.base.saved_defaults import VALUES, adopt, fill
from tlx.run import base_config
from tlx.run.config import parse_config
from tlx.training.directory import changes, read_run, resumed_config


def without_added(config):
    """The config as an older version saved it."""
    for group, keys in VALUES.items():
        node = config
        for name in group.partition(":")[0].split("."):
            node = node[name]
        for key in keys:
            node.pop(key, None)
    return config


def saved_config(objective="clm"):
    return without_added(json.loads(json.dumps(base_config(objective).to_dict())))


def test_a_saved_config_without_the_keys_has_their_older_values():
    saved = saved_config("token_classification")
    saved["data"]["mixture"] = [{"weight": 1.0, "text": {"files": ["a"]}}, {"text": {"clean": True}}]
    filled = fill(saved)
    assert filled["data"]["on_bad_record"] == "keep" and filled["objective"]["encoding"] == "joined"
    old = {"hold_out": "documents", "clean": False}
    assert {key: filled["data"]["text"][key] for key in old} == old
    assert filled["data"]["mixture"][0]["text"] == {"files": ["a"], **old}
    assert filled["data"]["mixture"][1]["text"] == {"clean": True, "hold_out": "documents"}
    assert "on_bad_record" not in saved["data"]  # not changed in place
    assert fill(filled) == filled and fill({"seed": 3}) == {"seed": 3}
    assert "encoding" not in fill(saved_config("clm"))["objective"]


def test_the_defaults_of_new_runs_are_others():
    new = parse_config(base_config("token_classification"))
    assert new.data.text.hold_out == "stretches" and new.data.text.clean
    assert new.data.on_bad_record == "error" and new.objective.encoding == "auto"


def test_a_resumed_run_takes_what_its_saved_config_lacks():
    now = base_config("clm").to_dict()
    adopted, changed = adopt(now, saved_config())
    assert {key.path: key.value for key in changed} == {
        "data.on_bad_record": "keep",
        "data.text.hold_out": "documents",
        "data.text.clean": False,
        "train.max_rollbacks": 0,
    }
    assert adopted["data"]["text"]["hold_out"] == "documents"
    assert now["data"]["text"]["hold_out"] == "stretches"
    saved_today = json.loads(json.dumps(now))
    assert adopt(now, saved_today) == (now, [])


@pytest.mark.parametrize("name", ["clm", "plm"])
@pytest.mark.parametrize("folder", sorted(FOLDER.iterdir()), ids=lambda path: path.name)
def test_a_run_of_an_older_version_is_resumed_by_its_config(folder, name, tmp_path):
    run = unpack(folder / f"{name}.tar.xz", tmp_path)
    saved = read_run(run)["config"]
    assert saved["data"]["on_bad_record"] == "keep" and saved["data"]["text"]["clean"] is False
    module = {}
    exec(_CONFIG, module)
    now = module["get_config"](name)
    adopted, changed = resumed_config(run, now.to_dict())
    assert adopted["data"]["text"]["hold_out"] == "documents"
    assert len(changed) == (5 if name == "plm" else 4)

    def refused(config):
        differences = changes(to_dict(parse_config(saved)), to_dict(parse_config(config)))
        return {change.key for change in differences if not change.allowed}

    assert not refused(adopted)
    of_objective = {"objective.pair_ends"} if name == "plm" else set()
    assert refused(now) == {"data.on_bad_record", "data.text.hold_out", "data.text.clean"} | of_objective


def test_labels_of_a_begun_run_are_kept(tmp_path):
    saved = saved_config("classification")
    saved["objective"]["labels"] = ["", "neg", "pos"]
    (tmp_path / "run.json").write_text(json.dumps(run_file(saved)))
    resumed, _ = resumed_config(tmp_path, base_config("classification").to_dict())
    assert resumed["objective"]["labels"] == ("", "neg", "pos")
    named = base_config("classification").to_dict()
    named["objective"]["labels"] = ("a", "b")
    assert resumed_config(tmp_path, named)[0]["objective"]["labels"] == ("a", "b")
    assert resumed_config(tmp_path / "new", named) == (named, [])


def test_one_text_stands_for_a_list_of_texts():
    config = base_config("clm")
    config.data.text.files = "input.txt"
    config.data.mixture = ({"source": "text", "text": {"files": "other.txt"}},)
    parsed = parse_config(config)
    assert parsed.data.text.files == ("input.txt",) and parsed.data.mixture[0].text.files == ("other.txt",)
    with pytest.raises(TypeError, match="steps"):
        config.train.steps = "many"
