"""The plan of a step that samples its own answers: memory by model, and a time for each phase."""

import dataclasses
import json

import pytest

import tlx.cli.plan
import tlx.plan
from tests.configs.test_posttrain import load
from tests.run_directory import write_run, write_task_run
from tlx.base import tree
from tlx.plan.footprint import abstract_program
from tlx.plan.target import parse_target
from tlx.run.config import finetune_config
from tlx.trainer.base_model import load_base
from tlx.trainer.task_config import complete_task_config


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """InstructGPT's third step, with a value network and a reward run, on a tiny base."""
    folder = tmp_path_factory.mktemp("plan")
    base = write_run(folder / "base", "clm")
    reward = finetune_config("reward")
    saved = json.loads((base / "run.json").read_text())["config"]
    reward.model = {**saved["model"]}
    reward.tokenizer.kind = "bytes"
    reward.data.sequence_length = 64
    write_task_run(folder / "reward", reward)
    (folder / "prompts.jsonl").write_text(
        "\n".join(json.dumps({"prompt": "a", "answer": "b"}) for _ in range(40))
    )
    values = load("instructgpt", "ppo:tiny")
    values.data.records.train = (str(folder / "prompts.jsonl"),)
    (folder / "text.txt").write_text("the cat sat on the mat. " * 400)
    values.data.text.files = values.data.text.validation_files = (str(folder / "text.txt"),)
    values.objective.reward_run = str(folder / "reward")
    return complete_task_config(values.to_dict(), load_base(str(base)))


@pytest.mark.slow
def test_memory_is_told_by_model_and_time_by_phase(config):
    plan = tlx.plan.plan(config, "cpu:1", "analytic")
    program = abstract_program(config, parse_target("cpu:1"))
    state = program.state
    expected = {
        "policy": state.params["model"],
        "value": state.params["heads"]["value"],
        "reference": state.frozen["reference"],
        "reward_run": state.frozen["reward_run"],
    }
    assert plan.models == {name: tree.num_bytes(part) for name, part in expected.items()}
    assert sum(plan.models.values()) == plan.memory["parameters"]
    assert set(plan.times) == {"sampling", "scoring", "training"} and min(plan.times.values()) > 0
    assert plan.step_ms == sum(plan.times.values())
    objective = dataclasses.replace(config.objective, epochs=3)
    longer = tlx.plan.plan(dataclasses.replace(config, objective=objective), "cpu:1", "analytic")
    assert longer.times["training"] == pytest.approx(3 * plan.times["training"])
    assert longer.times["sampling"] == plan.times["sampling"]
    assert longer.work.model_flops == 3 * plan.work.model_flops
    # Of the same rows more is answer: its logits are computed too.
    objective = dataclasses.replace(config.objective, target_length=2 * config.objective.target_length)
    longer = tlx.plan.plan(dataclasses.replace(config, objective=objective), "cpu:1", "analytic")
    assert longer.times["sampling"] > plan.times["sampling"]


@pytest.mark.slow
def test_the_models_are_printed(config):
    text = tlx.cli.plan.show(tlx.plan.plan(config, "cpu:1", "analytic"))
    assert "of reward_run" in text and "sampling" in text and "training" in text


@pytest.mark.long
def test_a_compiled_step_keeps_the_phases(config):
    plan = tlx.plan.plan(config, "cpu:1", "compile")
    assert plan.method != "analytic" and {"sampling", "scoring", "training"} <= set(plan.times)
    assert plan.step_ms == pytest.approx(
        sum(plan.times[name] for name in ("sampling", "scoring", "training"))
    )
