"""Fields with a few legal values are checked once, where a config is parsed."""

import dataclasses
import typing

import pytest

from tlx.base.errors import ConfigError
from tlx.run import RunConfig
from tlx.run.config import OBJECTIVES_AND_TASKS, base_config, parse_config


def choices(cls, prefix=""):
    """(dotted path, legal values) of the Literal fields of a dataclass and of those in it."""
    for name, hint in typing.get_type_hints(cls).items():
        if typing.get_origin(hint) is typing.Literal:
            yield f"{prefix}{name}", typing.get_args(hint)
        elif dataclasses.is_dataclass(hint):
            yield from choices(hint, f"{prefix}{name}.")


CASES = {f"clm {path}": ("clm", path, legal) for path, legal in choices(RunConfig)}
for objective in OBJECTIVES_AND_TASKS:
    config_class = OBJECTIVES_AND_TASKS.load(objective).config_class
    CASES |= {
        f"{objective} {path}": (objective, path, legal) for path, legal in choices(config_class, "objective.")
    }


def test_there_are_choices_in_every_part_of_a_config():
    groups = {path.split(".")[0] for _, path, _ in CASES.values()}
    assert groups >= {"model", "objective", "tokenizer", "data", "optimizer", "checkpoint", "adapt"}


@pytest.mark.parametrize("case", CASES)
def test_another_value_is_refused_and_the_legal_ones_are_named(case):
    objective, path, legal = CASES[case]
    values = base_config(objective).to_dict()
    group = values
    *groups, key = path.split(".")
    for name in groups:
        group = group[name]
    group[key] = f"{legal[-1]}x"
    with pytest.raises(ConfigError) as error:
        parse_config(values)
    assert f"config.{path} = '{legal[-1]}x' is not one of: " in str(error.value)
    assert all(str(value) in str(error.value) for value in legal)


def test_a_name_that_was_changed_alone_is_named_as_the_cause():
    values = base_config("grpo").to_dict()
    values["objective"]["name"] = "ppo"
    with pytest.raises(ConfigError) as error:
        parse_config(values)
    assert "config.objective.name = 'ppo': the other keys of config.objective are those of 'grpo'" in str(
        error.value
    )
    assert "tlx.run.finetune_config('ppo')" in str(error.value)
    # A key too many is named itself.
    del values["objective"]["num_answers"]
    with pytest.raises(ConfigError, match="unknown key: config.objective"):
        parse_config(values)
