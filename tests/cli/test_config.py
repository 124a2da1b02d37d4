"""`tlx config`: the resolved configuration, and differences."""

import json

import pytest

from tests.cli import tiny
from tests.run_directory import run_file
from tlx import cli
from tlx.base.errors import CONFIG


@pytest.fixture
def config_file(tmp_path):
    return tiny.write_config(tmp_path)


def test_printed_as_lines_and_as_json(config_file, capsys):
    assert cli.main(["config", f"--config={config_file}:mlm", "--config.seed=7"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "seed = 7" in lines and "objective.name = 'mlm'" in lines and "model.kind = 'encoder'" in lines
    assert cli.main(["config", f"--config={config_file}", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["objective"]["name"] == "clm"


def test_difference_from_another_file_and_from_itself(config_file, capsys):
    assert cli.main(["config", f"--config={config_file}", "--config.seed=7", f"--diff={config_file}"]) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["key", "other", "this"],
        ["seed", "0", "7"],
    ]
    assert cli.main(["config", f"--config={config_file}", f"--diff={config_file}"]) == 0
    assert capsys.readouterr().out == "no difference\n"


def test_difference_from_a_run(config_file, tmp_path, capsys):
    assert cli.main(["config", f"--config={config_file}", "--json"]) == 0
    run = run_file(json.loads(capsys.readouterr().out), saved_format=1)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text(json.dumps(run))
    words = ["config", f"--config={config_file}", "--config.train.steps=41", f"--diff={tmp_path / 'run'}"]
    assert cli.main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"train.steps": {"other": 40, "this": 41}}


def test_secrets_are_refused_by_every_verb_and_never_printed(config_file, capsys, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    for verb in ("config", "train", "finetune", "data", "plan", "bench"):
        words = [verb, f"--config={config_file}:mlm", "--config.log.api_key=sesame"]
        assert cli.main([*words, "--target=cpu:1"] if verb == "plan" else words) == CONFIG
        printed = capsys.readouterr()
        assert "would put a secret" in printed.err and "sesame" not in printed.err + printed.out
    words = ("config", f"--config={config_file}:mlm", "--config.base.path=https://user:sesame@host/model")
    assert cli.main(list(words)) == CONFIG
    printed = capsys.readouterr()
    assert "would put a secret" in printed.err and "sesame" not in printed.err + printed.out
    text = config_file.read_text()
    assert "return config" in text
    config_file.write_text(
        text.replace("return config", 'config.name = "run-0123456789abcdef"\n    return config').replace(
            "return config", 'config.base.path = "https://user:sesame@host/model"\n    return config'
        )
    )
    for words in ((), ("--json",), ("--diff=quickstart:clm",)):
        assert cli.main(["config", f"--config={config_file}:mlm", *words]) == 0
        printed = capsys.readouterr()
        assert "run-***" in printed.out and "0123456789abcdef" not in printed.out
        assert "https://user:***@host/model" in printed.out and "sesame" not in printed.out
