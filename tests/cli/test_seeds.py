"""Several seeds of one fine-tuning."""

import itertools
import json

import numpy as np
import pytest

from tests.cli.test_finetune import finetune, folder, params_of  # noqa: F401 (the fixture)
from tests.run_directory import write_run
from tests.tiers import tiers
from tlx.base.files import read_json, write_json
from tlx.run.assemble import assemble
from tlx.trainer.seeds import summarize
from tlx.training.journal import read_lines
from tlx.training.preemption import Preemption


def write_scores(workdir, seed, score):
    (workdir / f"seed-{seed}").mkdir()
    figures = {"main": "accuracy", "accuracy": score, "same_answer": [0.5], "records": 10}
    write_json(workdir / f"seed-{seed}" / "scores.json", {"validation": figures})


def test_mean_spread_and_worst(tmp_path, capsys):
    for seed, score in enumerate((0.9, 0.8, 0.505)):
        write_scores(tmp_path, seed, score)
    found = summarize(tmp_path, [0, 1, 2])["validation"]
    assert found["mean"] == pytest.approx(0.735) and found["worst"] == 0.505 and found["best"] == 0.9
    assert found["deviation"] == pytest.approx(0.20537, abs=1e-4)
    assert found["collapsed"] == [2]
    out = capsys.readouterr().out
    assert "3 seeds: accuracy 0.7350" in out and "seed 2 has COLLAPSED" in out and "seed 1 has" not in out
    assert read_json(tmp_path / "seeds.json")["validation"] == json.loads(json.dumps(found))
    assert (tmp_path / "seeds.png").stat().st_size > 1000


def test_less_may_be_better(tmp_path, capsys):
    for seed, score in enumerate((1.9, 2.5)):
        write_scores(tmp_path, seed, score)
        path = tmp_path / f"seed-{seed}" / "scores.json"
        write_json(
            path, {"test": read_json(path)["validation"] | {"lower_is_better": True, "same_answer": [9.0]}}
        )
    found = summarize(tmp_path, [0, 1])["test"]
    assert found["worst"] == 2.5 and found["best"] == 1.9 and found["collapsed"] == []


RUN = (
    "--config.train.steps=7",
    "--config.data.records.epochs=0",
    "--config.model.dropout=0.1",
    "--config.checkpoint.every=2",
    "--config.eval.every=3",
    "--config.log.every=1",
    "--config.optimizer.learning_rate=3e-3",
)


def metrics_of(run):
    timed = ("tokens_per_s", "flops_per_s", "peak_share")
    lines = read_lines(run / "metrics.jsonl")
    return [{name: value for name, value in line.items() if name not in timed} for line in lines]


@pytest.mark.parametrize("method", tiers(["full", "lora"], slow=()))
def test_a_seed_among_others_is_the_seed_alone(folder, tmp_path, capsys, monkeypatch, method):  # noqa: F811
    """The second seed is stopped after three steps, and resumed; one program serves both."""
    base = write_run(tmp_path / "base", "mlm")
    words = [*RUN, f"--config.adapt.method={method}"]
    assert finetune(folder, tmp_path / "alone", *words, "--config.seed=4", base=base) == 0
    seeds = [*words, "--config.seed=3", "--seeds=2"]
    agreed = Preemption.agreed
    calls = itertools.count(1)
    programs = []

    def stopping(preemption):
        # The third step of the second run.
        if len(programs) == 2 and next(calls) == 3:
            preemption.request("the test")
        return agreed(preemption)

    def assembling(*parts):
        run = assemble(*parts)
        programs.append(run.program)
        return run

    monkeypatch.setattr(Preemption, "agreed", stopping)
    monkeypatch.setattr("tlx.trainer.finetune.assemble", assembling)
    capsys.readouterr()
    assert finetune(folder, tmp_path / "run", *seeds, base=base) == 42
    assert programs[0] is programs[1]
    assert finetune(folder, tmp_path / "run", *seeds, base=base) == 0
    out = capsys.readouterr().out
    assert "resuming   from checkpoints/3: 4 of 7 steps to go" in out
    assert "2 seeds: accuracy" in out
    assert set(read_json(tmp_path / "run/seeds.json")["validation"]["scores"]) == {"3", "4"}
    assert [read_json(tmp_path / f"run/seed-{n}/run.json")["config"]["seed"] for n in (3, 4)] == [3, 4]

    assert metrics_of(tmp_path / "run/seed-4") == metrics_of(tmp_path / "alone")
    assert metrics_of(tmp_path / "run/seed-3")[0]["loss"] != metrics_of(tmp_path / "alone")[0]["loss"]
    params = params_of(tmp_path / "run/seed-4")
    for path, leaf in params_of(tmp_path / "alone").items():
        np.testing.assert_array_equal(params[path], leaf, err_msg=path)
    for file in ("scores.json", "predictions/test.jsonl", "confusion_test.png", "checkpoints/7"):
        assert (tmp_path / "run/seed-4" / file).exists()
