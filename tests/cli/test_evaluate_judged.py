"""`tlx evaluate --reward`: win rates and the best of several answers, by tiny runs with random parameters."""

import json

import numpy as np
import pytest

import tlx
from tests.run_directory import write_task_run
from tlx.base.errors import ConfigError
from tlx.cli import main
from tlx.run.config import base_config
from tlx.trainer.judged import Judged, best_of, gated, win_rate, write_best


def tiny(task, file):
    config = base_config(task)
    config.tokenizer.kind = "bytes"
    config.data.records.train = config.data.records.validation = (str(file),)
    config.data.sequence_length = 32
    config.model.kind = "decoder"
    config.model.width = 16
    config.model.num_layers = 1
    config.model.attention.num_heads = 2
    config.model.position.kind = "rotary"
    config.model.execution.unroll = 1
    config.train.batch_size = 4
    return config


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    file = folder / "prompts.jsonl"
    lines = [{"source": f"say {word}", "target": word, "danger": word == "b"} for word in "abcd"]
    file.write_text("\n".join(map(json.dumps, lines)))
    policy = tiny("generation", file)
    policy.objective.target_length = 6
    reward = tiny("reward", file)
    for name, config, seed in (("a", policy, 0), ("b", policy, 1), ("rm", reward, 2), ("safe", reward, 3)):
        write_task_run(folder / name, config, seed)
    return folder


@pytest.mark.slow
def test_the_win_rate_is_that_of_the_answers_and_rewards(runs, capsys):
    command = ["evaluate", str(runs / "a"), f"--reward={runs / 'rm'}", "--json"]
    assert main([*command, f"--against={runs / 'b'}"]) == 0
    figures = json.loads(capsys.readouterr().out)
    rewards = []
    for name in "ab":
        model = tlx.load(runs / name)
        prompts = [f"say {word}" for word in "abcd"]
        answers = [answer["answer"] for answer in model.predict([{"source": prompt} for prompt in prompts])]
        rewards.append(tlx.load(runs / "rm").reward(prompts, answers))
    wins = (rewards[0] > rewards[1]) + 0.5 * (rewards[0] == rewards[1])
    assert figures["win_rate"] == pytest.approx(wins.mean())
    assert figures["reward"] == pytest.approx(rewards[0].mean(), rel=1e-5)
    assert figures["other_reward"] == pytest.approx(rewards[1].mean(), rel=1e-5)
    assert figures["records"] == 4 and figures["interval_95"][0] <= figures["win_rate"]
    assert main([*command, f"--against={runs / 'a'}"]) == 0
    same = json.loads(capsys.readouterr().out)
    assert (same["win_rate"], same["ties"]) == (0.5, 1.0)


@pytest.mark.slow
def test_the_best_answers_are_records_to_tune_on(runs, tmp_path, capsys):
    path = tmp_path / "best.jsonl"
    command = ["evaluate", str(runs / "a"), f"--reward={runs / 'rm'}", "--best_of=3", f"--predictions={path}"]
    command += ["--json", f"--safety={runs / 'safe'}", "--gate=0.6", "--safety_column=danger"]
    assert main(command) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["gain"] == pytest.approx(figures["best_reward"] - figures["reward"])
    assert figures["gain"] > 0 and figures["kl_bound"] == pytest.approx(np.log(3) - 2 / 3)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["source"] for line in lines] == [f"say {word}" for word in "abcd"]
    prompts, texts = [line["source"] for line in lines], [line["target"] for line in lines]
    helpful, safe = (
        1 / (1 + np.exp(-tlx.load(runs / name).reward(prompts, texts).astype(float)))
        for name in ("rm", "safe")
    )
    expected = gated(helpful, safe, np.array([line["danger"] for line in lines]), 0.6)
    assert [line["reward"] for line in lines] == pytest.approx(expected.tolist(), rel=1e-5)
    assert figures["best_reward"] == pytest.approx(expected.mean(), rel=1e-5)


def test_the_gate_is_llama_2s():
    helpful, safe = np.array([0.9, 0.9, 0.9]), np.array([0.1, 0.5, 0.5])
    assert gated(helpful, safe, np.array([False, False, True]), 0.15).tolist() == [0.1, 0.9, 0.5]


def test_figures_by_hand(tmp_path):
    from tests.tasks.small import records_of

    records = records_of({"q": "1"}, {"q": "2"})
    first = Judged(records, [["a", "b"], ["c", "d"]], np.array([[1.0, 3.0], [2.0, 0.0]]))
    second = Judged(records, [["a"], ["c"]], np.array([[1.0], [5.0]]))
    assert {k: v for k, v in win_rate(first, second).items() if k in ("win_rate", "ties", "reward")} == {
        "win_rate": 0.25,
        "ties": 0.5,
        "reward": 1.5,
    }
    assert best_of(first)["gain"] == 1.0 and best_of(first)["best_reward"] == 2.5
    write_best(tmp_path / "best.jsonl", first, "{text} end")
    lines = [json.loads(line) for line in (tmp_path / "best.jsonl").read_text().splitlines()]
    assert lines == [{"q": "1", "answer": "b", "reward": 3.0}, {"q": "2", "answer": "c", "reward": 2.0}]


def test_wrong_flags_are_named(runs):
    for flags, message in (
        ([f"--against={runs / 'b'}"], "--reward=RM judges the answers of"),
        ([f"--reward={runs / 'rm'}"], "give one of the two"),
        ([f"--reward={runs / 'rm'}", "--best_of=1"], "--best_of = 1 must be 2 or more"),
        ([f"--reward={runs / 'b'}", "--best_of=2"], "reward is for models of the task 'reward'"),
        ([f"--reward={runs / 'rm'}", "--best_of=2", "--gate=2"], "gate = 2.0 must be a probability"),
        ([f"--reward={runs / 'rm'}", "--best_of=2", "--safety_column=x"], "is for a reward model of safety"),
    ):
        with pytest.raises(ConfigError, match=message):
            main_without_exit(["evaluate", str(runs / "a"), *flags])


def main_without_exit(argv):
    from tlx.cli import evaluate

    return evaluate.main(argv[1:])
