"""Old names of config keys: saved configs of every format are read, elsewhere an old name names the new one.

config_format_1.json holds the defaults of all configs as run.json of format 1 had them.
"""

import dataclasses
import pathlib

import pytest

from tlx.base.config import flatten, from_dict, to_dict
from tlx.base.errors import ConfigError
from tlx.base.files import read_json
from tlx.base.renamed_keys import KEYS, VALUES, new_name, new_path, new_paths_of, new_value, upgrade
from tlx.evaluation.few_shot import FewShotConfig
from tlx.run import RunConfig, base_config
from tlx.run.checks import resolve
from tlx.run.config import OBJECTIVES_AND_TASKS, parse_config
from tlx.scaling.ladder import LadderConfig

OLD = read_json(pathlib.Path(__file__).with_name("config_format_1.json"))


def old_config(objective):
    """The defaults of a run with this objective, as format 1 had them."""
    return OLD["run"] | {"objective": OLD["objectives"][objective]}


@pytest.mark.parametrize("objective", OLD["objectives"])
def test_defaults_of_format_1_are_those_of_today(objective):
    config = upgrade(old_config(objective), 1)
    # `parse_config` fills in the defaults of keys that were added since.
    assert to_dict(parse_config(config)) == to_dict(
        RunConfig(objective=OBJECTIVES_AND_TASKS.load(objective).config_class())
    )
    assert config["objective"].keys() <= to_dict(OBJECTIVES_AND_TASKS.load(objective).config_class()).keys()


def test_defaults_of_other_configs_of_format_1_are_those_of_today():
    ladder = from_dict(LadderConfig, upgrade(OLD["ladder"], 1, "ladder"))
    assert ladder == LadderConfig()
    few_shot = from_dict(FewShotConfig, upgrade({"objective": OLD["few_shot"]}, 1))
    assert few_shot == FewShotConfig()


def test_groups_inside_others_are_upgraded_too():
    model = OLD["run"]["model"] | {"residual": "post", "slots": OLD["run"]["model"]["slots"] | {"adapter": 3}}
    model["position"] = model["position"] | {"kind": "bucketed"}
    source = {"text": {"lines": True}, "weight": 2.0}
    part = {"objective": {"name": "bart", "mask_share": 0.5, "random_share": 0.2}, "scale": 2.0}
    config = upgrade(
        {
            "objective": {"name": "mixture", "parts": [part], "teacher_model": model},
            "data": {"mixture": (source,), "records": {"sets": [{"name": "a", "group": "g"}]}},
            "optimizer": {"decay": [["norm", 0.0]], "freeze": ["blocks/rates"]},
        },
        1,
    )
    flat = flatten(config["objective"]["teacher_model"])
    assert (flat["block_layout"], flat["adapters.bottleneck_dim"]) == ("post", 3)
    assert flat["position.kind"] == "relative_bias"
    (part,) = config["objective"]["parts"]
    assert part["loss_weight"] == 2.0
    assert part["objective"] == {"name": "bart", "mask_fraction": 0.5, "random_token_fraction": 0.2}
    assert config["data"]["mixture"] == ({"text": {"one_document_per_line": True}, "weight": 2.0},)
    assert config["data"]["records"]["sets"] == [{"name": "a", "group_column": "g"}]
    assert config["optimizer"] == {
        "weight_decay_multipliers": [["norm", 0.0]],
        "freeze": ["blocks/rates"],  # patterns match paths of parameters, which keep their names
    }


def test_an_objective_from_elsewhere_keeps_its_keys():
    config = {"objective": {"name": "mine.module:OBJECTIVE", "rate": 0.5}}
    assert upgrade(config, 1) == config


def test_configs_of_today_stay_as_they_are():
    for objective in OBJECTIVES_AND_TASKS:
        config = to_dict(RunConfig(objective=OBJECTIVES_AND_TASKS.load(objective).config_class()))
        assert upgrade(config, 1) == upgrade(config, 2) == config
    assert upgrade(to_dict(LadderConfig()), 1, "ladder") == to_dict(LadderConfig())


def test_the_threshold_of_no_answer_has_berts_sign_now():
    for saved_format, key in ((1, "threshold"), (2, "no_answer_threshold")):
        saved = {"objective": {"name": "question_answering", key: 1.5}}
        assert upgrade(saved, saved_format)["objective"]["null_score_diff_threshold"] == -1.5


@pytest.mark.parametrize("saved_format", [1, 2])
def test_tensorboard_of_an_earlier_config_means_where_it_is_installed(saved_format):
    old = {"every": 10, "tensorboard": True}
    assert upgrade({"log": old}, saved_format)["log"]["tensorboard"] is None
    for log in (old | {"tensorboard": False}, old | {"samples": 0}):
        assert upgrade({"log": log}, saved_format) == {"log": log}


def test_new_names_are_fields():
    config = to_dict(RunConfig(objective=None))
    objectives = [to_dict(OBJECTIVES_AND_TASKS.load(name).config_class()) for name in OBJECTIVES_AND_TASKS]
    fields = {f"ladder.{field.name}" for field in dataclasses.fields(LadderConfig)}
    fields |= set(flatten(config)) | {f"model.{name}" for name in config["model"]}
    fields |= {f"objective.{name}" for values in objectives for name in values}
    fields |= {f"objective.{name}" for name in to_dict(FewShotConfig())["objective"]}
    for table in KEYS.values():
        for group, keys in table.items():
            for new in keys.values():
                path = f"{group.partition(':')[0]}.{new}"
                assert path in fields or "[]" in path, path
    assert {path for table in VALUES.values() for path in table} <= fields


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {"residual": "post"}}, "config.model.residual is now called config.model.block_layout"),
        ({"model": {"adapters": {"units": 1}}}, "adapters.units is now called .*adapters.extra_ff_dim"),
        ({"optimizer": {"rates": []}}, "optimizer.rates is now called config.optimizer.lr_multipliers"),
        ({"objective": {"name": "mlm", "rate": 0.1}}, "objective.rate is now called .*masking_rate"),
        ({"objective": {"name": "bart", "mask_share": 0.1}}, "mask_share is now called .*mask_fraction"),
        (
            {"model": {"position": {"kind": "relative"}}},
            "config.model.position.kind = 'relative' is now called 'relative_sinusoidal'",
        ),
        ({"data": {"mixture": [{"text": {"lines": True}}]}}, "lines is now called .*one_document_per_line"),
    ],
)
def test_an_old_name_in_a_config_is_one_line_with_the_new_one(change, message):
    config = {"objective": {"name": "clm"}} | change
    with pytest.raises(ConfigError, match=message) as error:
        resolve(config)
    assert "\n" not in str(error.value)


def test_look_ups():
    assert new_name("config.run.model", "residual", ("block_layout",)) == "block_layout"
    assert new_name("config.model", "residual", ()) is None and new_name("config", "residual", ("x",)) is None
    assert new_value("config.model.position.kind", "bucketed") == "relative_bias"
    assert new_value("config.model.position.kind", "rotary") is None
    assert new_path("model.slots.adapter") == "model.adapters.bottleneck_dim"
    assert new_path("optimizer.schedule.final") == "optimizer.schedule.final_fraction"
    assert new_path("train.steps") is None and new_path("model") is None
    assert ("optimizer.decay", "optimizer.weight_decay_multipliers") in new_paths_of("decay")


def test_the_base_config_has_no_old_name():
    flat = flatten(base_config("mlm").to_dict())
    assert not [path for path in flat if new_path(path)]
