"""Runs of PPO with rewards from another run: resumed as uninterrupted, and rewards equal to that run's own."""

import json

import jax
import numpy as np
import pytest

import tlx
from tests.run_directory import tiny_config, write_run, write_task_run
from tlx.base.config import to_dict
from tlx.base.errors import ConfigError
from tlx.rollouts import TABLE
from tlx.rollouts.reward_run import RewardRun
from tlx.rollouts.rewards import SampledAnswer
from tlx.run.config import config_dict, finetune_config
from tlx.training.teacher import read_frozen, with_frozen_models


def judge_config(task, **objective):
    """A model of the task, as large and with the same tokenizer as the policy of `write_run`."""
    config = finetune_config(task)
    config.model = config_dict(to_dict(tiny_config("clm").model))
    config.tokenizer.kind = "bytes"
    config.data.sequence_length = 24
    for key, value in objective.items():
        config.objective[key] = value
    return config


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A policy, a reward model and a classifier with random parameters."""
    folder = tmp_path_factory.mktemp("runs")
    write_run(folder / "base", "clm")
    write_task_run(folder / "reward", judge_config("reward"), 1)
    write_task_run(folder / "classifier", judge_config("classification", labels=("bad", "good")), 2)
    lines = [{"source": f"{a}+{a}=", "target": str(2 * a)} for a in range(8)]
    (folder / "sums.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (folder / "text.txt").write_text("the cat sat on the mat. " * 100)
    return folder


def ppo_config(runs, **objective):
    config = finetune_config("ppo")
    config.data.records.train = config.data.records.validation = (str(runs / "sums.jsonl"),)
    config.data.records.epochs = 0.0
    config.data.sequence_length = 16
    config.train.batch_size = 8
    config.train.steps = 4
    config.objective.target_length = 6
    config.objective.reward_run = str(runs / "reward")
    config.optimizer.learning_rate = 1e-2
    config.optimizer.schedule.name = "constant"
    config.optimizer.schedule.warmup = 0
    config.checkpoint.every = 2
    config.eval.final = False
    config.log.tensorboard = False
    config.log.every = 1
    for key, value in objective.items():
        config.objective[key] = value
    return config


def steps_of(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "grad_norm" in line]


def distance(leaf, other):
    return np.abs(np.asarray(leaf) - np.asarray(other)).max()


@pytest.mark.long
def test_a_resumed_run_samples_the_same_with_every_part(runs, tmp_path):
    """Values from the reward model, text beside the prompts, a coefficient of the KL and an average in the state."""
    config = ppo_config(
        runs,
        value="network",
        value_start="reward_run",
        kl_target=1.0,
        kl_horizon=40.0,
        num_answers=2,
        epochs=2,
        minibatches=2,
        unfinished_penalty=0.5,
        pretraining_weight=0.5,
        pretraining_rows=2,
    )
    config.train.ema.decay = 0.9
    config.train.layer_norms = True
    config.data.source = "text"
    config.data.text.files = config.data.text.validation_files = (str(runs / "text.txt"),)
    whole = tlx.finetune(config, base=runs / "base", workdir=tmp_path / "whole").model
    steps = steps_of(tmp_path / "whole")
    # Before the first update the policy is the reference.
    assert steps[0]["kl"] == 0.0 and steps[-1]["kl"] > 1e-3
    assert steps[0]["beta"] == pytest.approx(0.05) and steps[1]["beta"] == pytest.approx(
        0.05 * (1 - 0.2 * 16 / 40)
    )
    assert steps[0]["grad_norm/decoder/00"] > 0
    names = {"pretraining_loss", "value_loss", "explained_variance", "penalised_reward", "ended", "entropy"}
    assert names <= set(steps[0])
    tlx.finetune(config, base=runs / "base", workdir=tmp_path / "half", overrides={"train.steps": 2})
    again = tlx.finetune(config, base=runs / "base", workdir=tmp_path / "half").model
    others = steps_of(tmp_path / "half")
    assert len(steps) == len(others) == 4
    for name in ("reward", "kl", "beta", "length", "loss", "value_loss", "pretraining_loss"):
        assert [step[name] for step in steps] == [step[name] for step in others]
    for leaf, other in zip(jax.tree.leaves(whole.params), jax.tree.leaves(again.params), strict=True):
        np.testing.assert_array_equal(leaf, other)
    averages = [tlx.load(tmp_path / name, params="ema").params for name in ("whole", "half")]
    jax.tree.map(np.testing.assert_array_equal, *averages)
    assert float(jax.tree.reduce(max, jax.tree.map(distance, averages[0], whole.params))) > 1e-3
    # A loaded run needs neither the reference nor the reward run.
    assert isinstance(tlx.load(tmp_path / "whole").predict({"source": "1+1="})["answer"], str)


@pytest.mark.long
def test_an_encoder_decoder_and_adapters_learn_by_a_reward_model(runs, tmp_path):
    """The reward model has another kind than the policy; with LoRA the reference is the model without it."""
    write_run(tmp_path / "base", "span_corruption")
    config = ppo_config(runs, epochs=1)
    result = tlx.finetune(
        config, base=tmp_path / "base", workdir=tmp_path / "run", overrides={"adapt.method": "lora"}
    )
    steps = steps_of(tmp_path / "run")
    assert result.model.kind == "encoder_decoder" and steps[0]["kl"] == 0.0
    assert steps[0]["grad_norm"] > 0 and steps[-1]["kl"] != 0.0


def answers_of(texts):
    return [SampledAnswer("12", text, (), True, {}) for text in texts]


def rewards_of(**values):
    config = with_frozen_models(TABLE.load("ppo").config_class(num_answers=2, **values))
    run = RewardRun(config)
    from tlx import parallel
    from tlx.rollouts.reward_run import abstract_reward_params

    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = parallel.unbox(abstract_reward_params(config))
    wanted = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), abstract
    )
    params = read_frozen(config, {"reward_run": wanted})["reward_run"]
    texts = ["34", "hello", "", "x" * 40]
    return texts, run.rewards(params, answers_of(texts))


@pytest.mark.slow
def test_rewards_are_those_of_the_loaded_run(runs):
    texts, rewards = rewards_of(reward_run=str(runs / "reward"))
    expected = tlx.load(runs / "reward").reward("12", texts)
    np.testing.assert_allclose(rewards, expected, rtol=1e-5)
    assert len(set(rewards.tolist())) == 4


@pytest.mark.slow
def test_rewards_of_a_classifier_are_log_odds(runs):
    values = {"reward_run": str(runs / "classifier"), "reward_text": "<{prompt}> {answer} {{}}"}
    texts, rewards = rewards_of(**values, reward_label="good")
    predictions = tlx.load(runs / "classifier").predict([f"<12> {text} {{{{}}}}" for text in texts])
    for prediction, reward in zip(predictions, rewards, strict=True):
        p = prediction["probability"]
        sign = 1 if prediction["label"] == "good" else -1
        assert reward == pytest.approx(sign * np.log(p / (1 - p)), abs=1e-3)
    with pytest.raises(ConfigError, match="objective.reward_label = 'fine'"):
        rewards_of(**values, reward_label="fine")


def test_what_gives_no_reward_is_named(runs):
    with pytest.raises(
        ConfigError, match="is a run of 'clm'; rewards come from runs of reward or classification"
    ):
        rewards_of(reward_run=str(runs / "base"))
    with pytest.raises(ConfigError, match="objective.reward_label = 'good' is for classifiers"):
        rewards_of(reward_run=str(runs / "reward"), reward_label="good")
