"""Other names of values: synonyms are saved under tlx's name, other things get the difference."""

import typing

import pytest

from tlx.base.config import flatten, to_dict
from tlx.base.config_files import override
from tlx.base.errors import ConfigError
from tlx.base.synonyms import OTHERS, SYNONYMS, canonical
from tlx.optim import OPTIMIZERS, SCHEDULES
from tlx.run import RunConfig, base_config
from tlx.run.checks import resolve
from tlx.run.config import OBJECTIVES_AND_TASKS


def resolved(*words, objective="clm"):
    config = base_config(objective)
    for word in words:
        override(config, f"--config.{word}")
    return flatten(to_dict(resolve(config)))


def test_synonyms_are_saved_under_the_name_of_tlx():
    config = resolved(
        "model.position.kind=RoPE",
        "model.feedforward.activation=swish",
        "model.norm.kind=RMSNorm",
        "model.block_layout=pre-norm",
        "model.dtype=bf16",
        "optimizer.name=AdamW",
        "optimizer.schedule.name=rsqrt",
        "tokenizer.kind=byte",
        "adapt.method=LoRA",
    )
    assert config["model.position.kind"] == "rotary"
    assert config["model.feedforward.activation"] == "silu"
    assert config["model.norm.kind"] == "rmsnorm"
    assert config["model.block_layout"] == "pre"
    assert config["model.dtype"] == "bfloat16"
    assert config["optimizer.name"] == "adamw"
    assert config["optimizer.schedule.name"] == "inverse_sqrt"
    assert config["tokenizer.kind"] == "bytes"
    assert config["adapt.method"] == "lora"


def test_objectives_have_synonyms_in_files_and_in_saved_configs():
    assert base_config("masked_lm").objective.name == "mlm"
    values = base_config("clm").to_dict()
    values["objective"]["name"] = "causal-lm"
    assert resolve(values) == resolve(base_config("clm"))


@pytest.mark.parametrize(
    ("word", "message"),
    [
        (
            "optimizer.name=adam",
            "'adam' adds weight decay to the gradient.*weight_decay = 0.*Legal values: adamw",
        ),
        ("optimizer.name=SGD", "'SGD' has one learning rate for all"),
        (
            "model.feedforward.activation=swiglu",
            "feedforward.activation = 'silu' and feedforward.gated = True",
        ),
        ("model.position.kind=absolute", "is one of two"),
        ("tokenizer.kind=wordpiece", "are read, not trained"),
        ("objective.name=bert", "'nsp' is masking with next-sentence prediction"),
        ("optimizer.name=adamv", "is not one of: .*did you mean 'adamw'"),
        ("model.position.kind=relative", "is now called 'relative_sinusoidal'"),
    ],
)
def test_another_thing_is_an_error_with_the_difference(word, message):
    with pytest.raises(ConfigError, match=message):
        resolved(word)


def test_a_text_that_is_no_choice_is_left_alone():
    assert resolved("name=rope")["name"] == "rope"
    assert canonical("config.data.text.column", "bf16") == "bf16"
    assert canonical("seed", 3) == 3


def legal_values(key):
    """The legal values of a key of a run, or of some group for the last name of a key."""
    tables = {
        "optimizer.name": OPTIMIZERS,
        "optimizer.schedule.name": SCHEDULES,
        "objective.name": OBJECTIVES_AND_TASKS,
        "data.source": ("text", "tfds", "python", "docstrings"),
    }
    if key in tables:
        return tables[key]
    paths = {
        "activation": "model.feedforward.activation",
        "dtype": "model.dtype",
        "param_dtype": "model.param_dtype",
    }
    kind: typing.Any = RunConfig
    for name in paths.get(key, key if "." in key else f"optimizer.{key}").split("."):
        kind = typing.get_type_hints(kind)[name]
    return typing.get_args(kind)


@pytest.mark.parametrize("key", sorted({*SYNONYMS, *OTHERS}))
def test_tables_name_legal_values_only(key):
    legal = legal_values(key)
    allowed = {*legal, "float16"} if key.endswith("dtype") else set(legal)
    assert set(SYNONYMS.get(key, {}).values()) <= allowed
    assert not set(OTHERS.get(key, {})) & (set(legal) | set(SYNONYMS.get(key, {})))
