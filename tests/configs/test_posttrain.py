"""Configs of configs/posttrain on the real files they are for, and runs of them on made preferences."""

import json
import random
import runpy

import numpy as np
import pytest

import tlx
from tests.cli.tiny import ROOT
from tests.shared_data import SHARED_DATA
from tlx.base.errors import ConfigError
from tlx.data.records import build_records
from tlx.run.config import get_objective
from tlx.run.spec import abstract_batch, spec_of
from tlx.text import make_tokenizer
from tlx.trainer.task_config import complete_task_config

FOLDER = ROOT / "configs/posttrain"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py"))
SHARED = SHARED_DATA / "preferences"
FILES = {("reward", "hh"): "hh_harmless_test.jsonl.gz"}


def load(name, arg=""):
    return runpy.run_path(str(FOLDER / f"{name}.py"))["get_config"](arg)


def small(values, folder, train):
    """The config with a tiny decoder of its own on a file of records."""
    path = folder / "train.jsonl"
    path.write_text("\n".join(json.dumps(value) for value in train))
    values.tokenizer.kind = "bytes"
    values.data.records.train = (str(path),)
    values.data.sequence_length = 32
    values.data.records.epochs = 0.0
    values.train.batch_size = 8
    values.train.steps = 60
    model = values.model
    model.kind = "decoder"
    model.width, model.num_layers, model.attention.num_heads = 32, 1, 2
    model.position.kind = "rotary"
    model.execution.unroll = 1
    values.optimizer.learning_rate = 1e-2
    values.log.tensorboard = False
    return values


@pytest.mark.parametrize("name", NAMES)
def test_a_word_that_means_nothing_is_named(name):
    with pytest.raises(ConfigError, match="'tinny' is not one of: .*did you mean 'tiny'"):
        load(name, "tinny")


@pytest.mark.parametrize(("name", "arg"), FILES)
def test_real_records_become_batches(name, arg):
    path = SHARED / FILES[name, arg]
    if not path.exists():
        pytest.skip(f"no {path}")
    values = load(name, ":".join(filter(None, [arg, "tiny"])))
    values.tokenizer.kind = "bytes"
    values.data.records.train = (str(path),)
    config = complete_task_config(values.to_dict(), None)
    tokenizer = make_tokenizer(config.tokenizer, ())
    spec = spec_of(config, tokenizer)
    pipeline = build_records(
        config.data, tokenizer, get_objective(config), spec, batch_size=config.train.batch_size, seed=0
    )
    batch = pipeline.batch(0)
    expected = abstract_batch(config, spec)
    assert {key: (x.shape, x.dtype) for key, x in batch.items()} == {
        key: (x.shape, x.dtype) for key, x in expected.items()
    }
    assert (batch["weights"].reshape(len(batch["weights"]), -1).sum(axis=1) > 0).all()


def answers(count):
    """Pairs of answers, of which the one with more of the letter a is better."""
    rng = random.Random(0)
    for _ in range(count):
        texts = sorted(("".join(rng.choices("ab", k=6)) for _ in range(2)), key=lambda text: text.count("a"))
        if texts[0].count("a") < texts[1].count("a"):
            yield {"prompt": "say", "chosen": texts[1], "rejected": texts[0]}


@pytest.mark.slow
def test_a_reward_model_is_a_run_like_any_other(tmp_path):
    """It finds the letter that is preferred; loaded from its directory it gives the rewards that were evaluated."""
    values = small(load("reward"), tmp_path, answers(200))
    model, metrics = tlx.finetune(values, workdir=tmp_path / "run")
    assert metrics["validation"]["accuracy"] > 0.9
    loaded = tlx.load(tmp_path / "run")
    texts = ["aaaaaa", "ababab", "bbbbbb", "aaabbb"]
    rewards = loaded.reward("say", texts)
    assert rewards.dtype == np.float32 and rewards.shape == (4,)
    assert rewards[0] > rewards[1] > rewards[2]
    np.testing.assert_array_equal(rewards, model.reward(["say"] * 4, texts))
    pair = loaded.predict({"prompt": "say", "chosen": texts[0], "rejected": texts[2]})
    np.testing.assert_allclose(pair["rewards"], rewards[[0, 2]], atol=2e-5)
    with pytest.raises(ConfigError, match="2 prompts and 1 answers"):
        loaded.reward(["a", "b"], "c")
