"""Old names of config keys: run.json is read; elsewhere one line names the new name."""

import json

import pytest

from tests.cli.test_flags import parse
from tests.run_directory import run_file
from tlx.base.errors import ConfigError
from tlx.run.checks import resolve
from tlx.training import directory


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("--config.model.residual=post", "--config.model.residual is now called --config.model.block_layout"),
        (
            "--config.model.slots.adapter=8",
            "--config.model.slots.adapter is now called --config.model.adapters.bottleneck_dim",
        ),
        (
            "--config.optimizer.schedule.final=0",
            "--config.optimizer.schedule.final is now called --config.optimizer.schedule.final_fraction",
        ),
    ],
)
def test_an_old_name_is_one_line_with_the_new_one(word, message):
    with pytest.raises(ConfigError) as error:
        parse("--config=quickstart:mlm:tiny", word)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('config.model.residual = "post"', "FILE:5: model.residual is now called model.block_layout"),
        ("config.model.slots.prefix = 3", "FILE:5: model.slots is now called model.adapters"),
        ('kind = config.model["residual"]', "FILE:5: model.residual is now called model.block_layout"),
        (
            "config.lock(); config.optimizer.schedule.decay = 0.1",
            "FILE:5: optimizer.schedule.decay is now called optimizer.schedule.cooldown",
        ),
        (
            "config.optimizer.schedule.decay = 0.1",
            "FILE:5: optimizer.schedule.decay is now called optimizer.schedule.cooldown",
        ),
    ],
)
def test_an_old_name_in_a_config_file_is_one_line_with_the_new_one(line, message, tmp_path):
    file = tmp_path / "old.py"
    head = "from tlx.run import base_config\n\ndef get_config(arg=''):\n    config = base_config('mlm')\n"
    file.write_text(f"{head}    {line}\n    return config\n")
    with pytest.raises(ConfigError) as error:
        resolve(parse(f"--config={file}").config)
    assert str(error.value) == message.replace("FILE", str(file))


def test_an_error_that_is_not_of_an_old_name_has_its_line(tmp_path):
    file = tmp_path / "wrong.py"
    file.write_text("def get_config(arg=''):\n    return None.residually\n")
    with pytest.raises(ConfigError, match=r"wrong.py:2: AttributeError: .*residually"):
        parse(f"--config={file}")


def test_a_run_of_format_1_is_read_in_the_keys_of_today(tmp_path):
    config = {"model": {"residual": "post", "position": {"kind": "bucketed"}}, "seed": 1}
    (tmp_path / "run.json").write_text(json.dumps(run_file(config, saved_format=1)))
    run = directory.read_run(tmp_path)
    assert run["config"] == {
        "model": {"block_layout": "post", "position": {"kind": "relative_bias"}},
        "seed": 1,
    }
    assert run["format"] == directory.FORMAT


def test_an_old_name_to_allow_is_one_line_with_the_new_one():
    with pytest.raises(ConfigError) as error:
        directory.changes({"seed": 1}, {"seed": 1}, ["model.slots.adapter"])
    assert str(error.value) == (
        "--allow-change=model.slots.adapter is now called --allow-change=model.adapters.bottleneck_dim"
    )
