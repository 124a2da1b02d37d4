"""tlx.train, tlx.finetune and tlx.evaluate stay functions, and take configs of any kind."""

import importlib
import pkgutil

import pytest

import tlx
from tlx.base.config import to_dict
from tlx.base.errors import ConfigError, DataError
from tlx.run import base_config
from tlx.run.checks import resolve
from tlx.trainer.config_input import read_config, run_directory

EXTRAS = {"lm_eval"}  # packages of extras, which a module may need


def test_they_are_functions_with_every_submodule_imported(tmp_path):
    for module in pkgutil.walk_packages(tlx.__path__, "tlx."):
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            assert error.name in EXTRAS
    with pytest.raises(ConfigError, match="no file 'nowhere.py'"):
        tlx.train("nowhere.py", workdir=tmp_path / "run")
    with pytest.raises(ConfigError, match="is no task"):
        tlx.finetune("quickstart:tiny", workdir=tmp_path / "run")
    with pytest.raises(DataError, match="is not there"):
        tlx.evaluate(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_config_may_be_a_name_a_config_dict_or_a_run_config():
    named = read_config("quickstart:mlm:tiny", {"train.steps": 7})
    assert (named.name, named.config.train.steps) == ("quickstart-mlm-tiny", 7)
    config = base_config("clm")
    config.name = "mine"
    changed = read_config(config, {"optimizer.learning_rate": 0.5})
    assert (changed.name, changed.config.optimizer.learning_rate) == ("mine", 0.5)
    assert config.optimizer.learning_rate != 0.5
    checked = resolve(config)
    assert resolve(read_config(checked).config) == checked
    assert resolve(read_config(to_dict(checked)).config) == checked


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"train.stesp": 3}, "did you mean 'steps'"),
        ({"train": 3}, "config.train is a group"),
        ({"seed.more": 3}, "is a value, not a group"),
    ],
)
def test_overrides_are_checked_as_on_the_command_line(overrides, message):
    with pytest.raises(ConfigError, match=message):
        read_config("quickstart:tiny", overrides)


def test_a_run_without_a_name_needs_a_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_directory(None, "mine") == tmp_path / "runs" / "mine"
    with pytest.raises(ConfigError, match="workdir"):
        tlx.train(base_config("clm"))
    with pytest.raises(ConfigError, match="config is a int"):
        tlx.train(3)
