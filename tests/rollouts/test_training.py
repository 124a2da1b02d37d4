"""Runs that learn from their own answers: the reward rises, and an interrupted run ends as an uninterrupted one."""

import json

import jax
import numpy as np
import pytest

import tlx
from tests.run_directory import write_run
from tlx.run.config import finetune_config


def ascii_share(answers):
    """Reward: the share of characters below 128; a bytes tokenizer's random text has about half of them."""
    return [float(np.mean([ord(c) < 128 for c in answer.text] or [0])) for answer in answers]


def small(name, folder, **objective):
    values = finetune_config(name)
    path = folder / "sums.jsonl"
    path.write_text("\n".join(json.dumps({"source": f"{a}+{a}=", "target": str(2 * a)}) for a in range(8)))
    values.tokenizer.kind = "bytes"
    values.data.records.train = values.data.records.validation = (str(path),)
    values.data.records.epochs = 0.0
    values.data.sequence_length = 16
    values.train.batch_size = 8
    values.objective.target_length = 6
    values.optimizer.learning_rate = 3e-2
    values.optimizer.schedule.name = "constant"
    values.optimizer.schedule.warmup = 0
    values.log.tensorboard = False
    values.log.every = 1
    for key, value in objective.items():
        values.objective[key] = value
    return values


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A small decoder with random parameters."""
    folder = tmp_path_factory.mktemp("base") / "run"
    write_run(folder, "clm")
    return folder


def rewarded(name, folder, base, workdir, objective, **overrides):
    """Train the base on the reward; returns the model and the metrics of the steps."""
    reward = f"{__name__}:ascii_share"
    values = small(name, folder, reward=reward, num_answers=8, beta=0.01, **objective)
    values.checkpoint.every = 6
    values.eval.final = False
    values.train.steps = 12
    result = tlx.finetune(values, base=base, workdir=folder / workdir, overrides=overrides)
    lines = [json.loads(line) for line in (folder / workdir / "metrics.jsonl").read_text().splitlines()]
    return result.model, [line for line in lines if "grad_norm" in line]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "objective", "adapt"),
    [
        ("grpo", {"minibatches": 2}, {}),
        pytest.param("grpo", {}, {"adapt.method": "lora"}, marks=pytest.mark.long),
        pytest.param("rloo", {"epochs": 2}, {}, marks=pytest.mark.long),
        pytest.param("online_dpo", {"minibatches": 2}, {}, marks=pytest.mark.long),
    ],
)
def test_the_reward_rises_and_a_resumed_run_samples_the_same(tmp_path, base, name, objective, adapt):
    model, steps = rewarded(name, tmp_path, base, "whole", objective, **adapt)
    rewards = [step["reward"] for step in steps]
    assert np.mean(rewards[-3:]) > np.mean(rewards[:3]) + 0.1
    # Before the first update the policy is the reference.
    first = steps[0]["kl"] if objective.get("minibatches", 1) * objective.get("epochs", 1) == 1 else 0.0
    assert first == pytest.approx(0, abs=1e-5) and steps[-1]["kl"] > 1e-3
    assert {"length", "entropy", "clip_fraction", "equal_rewards", "ended"} <= set(steps[0])
    half, _ = rewarded(name, tmp_path, base, "resumed", objective, **adapt, **{"train.steps": 6})
    assert half.step == 6
    again, others = rewarded(name, tmp_path, base, "resumed", objective, **adapt)
    assert again.step == 12
    for metric in ("reward", "length", "loss", "kl"):
        assert [step[metric] for step in steps] == [step[metric] for step in others]
    for leaf, other in zip(jax.tree.leaves(model.params), jax.tree.leaves(again.params), strict=True):
        np.testing.assert_array_equal(leaf, other)
    loaded = tlx.load(tmp_path / "whole", allow=("tests",))
    assert isinstance(loaded.predict({"source": "1+1="})["answer"], str)
