"""InstructGPT's three steps by the script of the page: killed in two of them, they end as if they had not been."""

import json
import re
import shlex
import time

import numpy as np
import pytest

from tests.cli.tiny import ROOT
from tests.forked import Forks, wait_for_group
from tlx.base import tree
from tlx.checkpoint import load_params

PAGE = ROOT / "configs/posttrain/README.md"
STEPS = ("sft", "reward", "ppo")
# Steps of each, and the one that must have been trained before it is killed; a checkpoint falls every two steps.
TRAINED = 24
KILLED = {"sft": 7, "ppo": 5}
MODEL = (
    "--config.tokenizer.kind=bytes",
    "--config.model.kind=decoder",
    "--config.model.width=32",
    "--config.model.num_layers=1",
    "--config.model.attention.num_heads=2",
    "--config.model.position.kind=rotary",
)
TINY = (
    f"--config.train.steps={TRAINED}",
    "--config.train.batch_size=4",
    "--config.data.records.epochs=0.0",
    "--config.optimizer.learning_rate=1e-2",
    "--config.checkpoint.every=2",
    "--config.log.every=1",
    "--config.log.print_every=1",
    "--config.log.tensorboard=False",
    "--config.eval.final=False",
)


def script():
    """The command lines of the page's script, by step."""
    block = re.search(r"## InstructGPT.*?```\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    lines = block[1].replace("\\\n", " ").strip().splitlines()
    commands = [shlex.split(line) for line in lines]
    return dict(zip(STEPS, commands, strict=True))


def write_records(folder):
    records = {
        "demonstrations": [{"prompt": f"say {word}", "answer": word} for word in "abcdefgh"],
        "rankings": [
            {"prompt": f"say {word}", "answers": [word, "x", "yy", "zz"], "ranking": [1, 2, 2, 4]}
            for word in "abcdefgh"
        ],
        "prompts": [{"prompt": f"say {word}", "answer": ""} for word in "abcdefgh"],
    }
    for name, lines in records.items():
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (folder / "pretraining").mkdir()
    (folder / "pretraining/text.txt").write_text("the cat sat on the mat. " * 400)


def words_of(step, folder, runs):
    """The words of a command of the page, at the size of the tests, with its files and runs in folders."""
    _, *words = script()[step]
    words = [word.replace("runs/", f"{runs}/").replace("('", f"('{folder}/") for word in words]
    words = [word for word in words if word != "--from=BASE"]
    words = [f"{word}:tiny" if word.startswith("--config=") else word for word in words]
    records = next(word for word in words if word.startswith("--config.data.records.train="))
    words.append(records.replace("records.train=", "records.validation="))
    if step == "ppo":
        words.append(f"--config.data.text.validation_files=('{folder}/pretraining/*.txt',)")
    return [*words, *TINY, *(MODEL if step == "sft" else ())]


def finished(process):
    process.wait(900)
    assert process.returncode == 0, process.output[-3000:]


@pytest.mark.long
def test_killed_in_two_of_its_steps_the_script_ends_with_the_same_parameters(tmp_path):
    write_records(tmp_path)
    with Forks() as forks:
        for step in STEPS:
            words = words_of(step, tmp_path, tmp_path / "whole")
            finished(forks.tlx(*words, output=tmp_path / f"whole-{step}.log"))
        for step in STEPS:
            words = words_of(step, tmp_path, tmp_path / "killed")
            if step in KILLED:
                process = forks.tlx(*words, output=tmp_path / f"{step}.log")
                while f"step {KILLED[step]}/{TRAINED}" not in process.output:
                    assert process.poll() is None, process.output[-3000:]
                    time.sleep(0.002)
                process.kill()
                process.wait(60)
                wait_for_group(process.pid, 60)
                assert process.returncode == -9, "it had ended before it was killed"
            again = forks.tlx(*words, output=tmp_path / f"{step}-again.log")
            finished(again)
            assert (step not in KILLED) or "to go" in again.output
    for step in STEPS:
        whole, killed = (
            tree.flatten(load_params(tmp_path / name / step, TRAINED).tree) for name in ("whole", "killed")
        )
        assert whole.keys() == killed.keys()
        for path, leaf in whole.items():
            np.testing.assert_array_equal(leaf, killed[path], err_msg=path)
