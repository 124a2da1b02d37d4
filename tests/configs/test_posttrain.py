"""Configs of configs/posttrain on the real files they are for, and runs of them on made preferences."""

import json
import random
import runpy

import jax
import numpy as np
import pytest

import tlx
from tests.cli.tiny import ROOT
from tests.shared_data import SHARED_DATA
from tlx.base.errors import ConfigError
from tlx.data.records import build_records
from tlx.run.config import finetune_config, get_objective
from tlx.run.spec import abstract_batch, spec_of
from tlx.tasks.preference import PreferenceTask
from tlx.text import make_tokenizer
from tlx.trainer import reference
from tlx.trainer.task_config import complete_task_config

FOLDER = ROOT / "configs/posttrain"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py"))
SHARED = SHARED_DATA / "preferences"
FILES = {
    ("reward", "hh"): "hh_harmless_test.jsonl.gz",
    ("dpo", "hh"): "hh_harmless_test.jsonl.gz",
    ("dpo", "kto"): "kto_en_demo.json.gz",
    ("dpo", ""): "dpo_en_demo.json.gz",
}
# The layouts of LLaMA-Factory's files, as the page has them.
COLUMNS = {
    ("dpo", "kto"): {"prompt": "", "answer": "messages"},
    ("dpo", ""): {"prompt": "conversations", "role": "from", "content": "value"},
}


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
def test_real_records_become_batches(name, arg, monkeypatch):
    # Rows are the same whatever the reference, which is a model that there is none of here.
    monkeypatch.setattr(PreferenceTask, "with_base", lambda self, config, path, adapt: config)
    path = SHARED / FILES[name, arg]
    if not path.exists():
        pytest.skip(f"no {path}")
    values = load(name, ":".join(filter(None, [arg, "tiny"])))
    values.tokenizer.kind = "bytes"
    values.data.records.train = (str(path),)
    for key, value in COLUMNS.get((name, arg), {}).items():
        values.objective[key] = value
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


@pytest.mark.parametrize("word", ["base:tiny", "tiny"])
def test_sums_become_prompts_and_answers(tmp_path, word):
    values = load("grpo_arithmetic", word)
    (tmp_path / "sums.jsonl").write_text(
        "\n".join(json.dumps({"source": "1+1=", "target": "2"}) for _ in range(9))
    )
    values.data.records.train = values.data.records.validation = (str(tmp_path / "sums.jsonl"),)
    values.tokenizer.kind = "bytes"
    values.model.kind = "decoder"
    config = complete_task_config(values.to_dict(), None)
    assert config.train.steps == 2 and config.objective.name == {"tiny": "grpo"}.get(word, "generation")


@pytest.mark.slow
def test_the_three_steps_of_instructgpt(tmp_path):
    """Demonstrations, rankings and prompts, each step from the one before."""
    records = {
        "sft": [{"prompt": f"say {word}", "answer": word} for word in "abcdefgh"],
        "reward": [{"prompt": "say a", "answers": ["a", "b", "c", "d"], "ranking": [1, 2, 2, 4]}] * 8,
    }
    records["ppo"] = records["sft"]
    (tmp_path / "text.txt").write_text("the cat sat on the mat. " * 400)
    base = None
    for step, lines in records.items():
        values = load("instructgpt", f"{step}:tiny")
        length = values.data.sequence_length
        if step == "sft":
            small(values, tmp_path, lines)
        path = tmp_path / f"{step}.jsonl"
        path.write_text("\n".join(map(json.dumps, lines)))
        values.data.records.train = values.data.records.validation = (str(path),)
        values.data.records.epochs = 0.0
        values.data.sequence_length = length
        values.train.batch_size = 8
        values.train.steps = 2
        values.eval.final = False
        values.log.every = 1
        if step == "ppo":
            values.train.batch_size = 16  # two minibatches, over 8 devices
            values.objective.reward_run = str(tmp_path / "reward")
            values.data.text.files = values.data.text.validation_files = (str(tmp_path / "text.txt"),)
        tlx.finetune(values, base=base, workdir=tmp_path / step)
        base = tmp_path / "sft"
    steps = [json.loads(line) for line in (tmp_path / "ppo/metrics.jsonl").read_text().splitlines()]
    first = next(line for line in steps if "grad_norm" in line)
    assert first["kl"] == 0.0 and first["pretraining_loss"] > 0 and first["value_loss"] > 0


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


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A decoder that was tuned on answers, for a few steps."""
    folder = tmp_path_factory.mktemp("base")
    values = small(finetune_config("chat"), folder, [{"messages": MESSAGES}] * 40)
    values.train.steps = 3
    values.eval.final = False
    tlx.finetune(values, workdir=folder / "run")
    return folder / "run"


MESSAGES = [{"role": "user", "content": "say"}, {"role": "assistant", "content": "ab"}]


def preferring(folder, base, workdir, **overrides):
    """Tune the base on pairs; returns the result and the losses of the steps."""
    values = small(load("dpo"), folder, answers(200))
    values.model = finetune_config("preference").model
    values.data.sequence_length = 128
    values.train.steps = 20
    values.checkpoint.every = 10
    values.log.every = 1
    values.optimizer.schedule.name = "constant"
    values.optimizer.schedule.warmup = 0
    result = tlx.finetune(values, base=base, workdir=folder / workdir, overrides=overrides)
    lines = [json.loads(line) for line in (folder / workdir / "metrics.jsonl").read_text().splitlines()]
    return result, [line for line in lines if "grad_norm" in line]


@pytest.mark.slow
@pytest.mark.parametrize(
    "adapt",
    [{}, pytest.param({"adapt.method": "lora", "optimizer.learning_rate": 0.03}, marks=pytest.mark.long)],
)
def test_dpo_prefers_what_was_chosen(tmp_path, base, adapt):
    """From ln 2 to a right order of held-out answers, in packed rows; interrupted, the result is the same."""
    (model, metrics), steps = preferring(tmp_path, base, "whole", **adapt)
    # But for the rounding of a forward pass that is compiled with a gradient and of one that is not.
    assert steps[0]["loss"] == pytest.approx(np.log(2), abs=1e-6) and abs(steps[0]["margin"]) < 1e-6
    assert metrics["validation"]["accuracy"] > 0.9 and steps[-1]["loss"] < (0.65 if adapt else 0.3)
    loaded = tlx.load(tmp_path / "whole")
    assert isinstance(loaded.chat("say", max_tokens=4), str)
    pair = {"prompt": "say", "chosen": "aaaaaa", "rejected": "bbbbbb"}
    assert np.subtract(*loaded.predict(pair)["log_probs"]) > 0
    half, _ = preferring(tmp_path, base, "resumed", **adapt | {"train.steps": 10})
    assert half.model.step == 10
    again, _ = preferring(tmp_path, base, "resumed", **adapt)
    assert again.model.step == 20
    for leaf, other in zip(jax.tree.leaves(model.params), jax.tree.leaves(again.model.params), strict=True):
        np.testing.assert_array_equal(leaf, other)


@pytest.mark.long
@pytest.mark.slow
def test_a_cached_reference_is_the_live_one(tmp_path, base, monkeypatch):
    """The same losses without the reference's parameters; a second run takes the stored numbers."""
    overrides = {"train.steps": 4, "objective.loss": "ipo_sum"}
    live, steps = preferring(tmp_path, base, "live", **overrides)
    overrides |= {"objective.cache_reference": True}
    cached, others = preferring(tmp_path, base, "cached", **overrides)
    for step, other in zip(steps, others, strict=True):
        assert other["loss"] == pytest.approx(step["loss"], rel=2e-4)
        assert other["margin"] == pytest.approx(step["margin"], abs=2e-4)
    assert steps[-1]["margin"] > 0.01
    scores = [result.metrics["validation"]["accuracy"] for result in (live, cached)]
    assert scores[0] == scores[1]
    monkeypatch.setattr(reference, "_compute", None)  # it would be called
    again, _ = preferring(tmp_path, base, "again", **overrides)
    for leaf, other in zip(
        jax.tree.leaves(again.model.params), jax.tree.leaves(cached.model.params), strict=True
    ):
        np.testing.assert_array_equal(leaf, other)
    loaded = tlx.load(tmp_path / "cached")
    assert set(loaded.predict({"prompt": "say", "chosen": "a", "rejected": "b"})) == {"log_probs"}
