"""Several seeds of one fine-tuning."""

import dataclasses
import itertools
import json

import numpy as np
import pytest

from tests.cli.test_finetune import finetune, folder, params_of  # noqa: F401 (the fixture)
from tests.run_directory import write_run
from tlx.base.files import read_json, write_json
from tlx.checkpoint import steps
from tlx.cli import seed_groups
from tlx.run import RunConfig
from tlx.trainer.driver import Job
from tlx.trainer.seeds import summarize
from tlx.training.config import TrainConfig
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


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_seed_among_others_is_the_seed_alone(folder, tmp_path, capsys, monkeypatch, method):  # noqa: F811
    """Of eight devices; the seeds are stopped after three steps, and go on by the same command."""
    base = write_run(tmp_path / "base", "mlm")
    words = [*RUN, f"--config.adapt.method={method}"]
    assert finetune(folder, tmp_path / "alone", *words, "--config.seed=4", base=base) == 0
    together, agreed, calls = [*words, "--config.seed=3", "--seeds=2"], Preemption.agreed, itertools.count(1)

    def stopping(preemption):
        if next(calls) == 3:
            preemption.request("the test")
        return agreed(preemption)

    monkeypatch.setattr(Preemption, "agreed", stopping)
    monkeypatch.setattr(seed_groups, "_ALONE", ())  # as on an accelerator
    capsys.readouterr()
    assert finetune(folder, tmp_path / "run", *together, base=base) == 42
    assert finetune(folder, tmp_path / "run", *together, base=base) == 0
    out = capsys.readouterr().out
    assert out.count("seeds      seed-3, seed-4: in one program, 0.00 GB of") == 2
    assert "seed-4  resuming   from checkpoints/3: 4 of 7 steps to go" in out
    assert "2 seeds: accuracy" in out
    assert set(read_json(tmp_path / "run/seeds.json")["validation"]["scores"]) == {"3", "4"}
    assert [read_json(tmp_path / f"run/seed-{n}/run.json")["config"]["seed"] for n in (3, 4)] == [3, 4]

    alone, among, other = (
        metrics_of(tmp_path / "alone"),
        *(metrics_of(tmp_path / f"run/seed-{n}") for n in (4, 3)),
    )
    assert len(alone) == 10  # seven steps, two evaluations, the end
    assert [(line["step"], line["kind"]) for line in among] == [
        (line["step"], line["kind"]) for line in alone
    ]
    for one, two in zip(alone, among, strict=True):
        assert {**two, "kind": 0} == pytest.approx({**one, "kind": 0}, rel=1e-4, abs=1e-5)
    assert other[0]["loss"] != pytest.approx(alone[0]["loss"], rel=1e-3)
    params, expected = params_of(tmp_path / "run/seed-4"), params_of(tmp_path / "alone")
    for path, leaf in expected.items():
        if path.endswith("attention/key/bias"):
            continue  # its gradient is 0 but for rounding, of which Adam makes steps
        np.testing.assert_allclose(params[path], leaf, rtol=1e-4, atol=1e-5, err_msg=path)
    for file in ("scores.json", "predictions/test.jsonl", "confusion_test.png", "checkpoints/7"):
        assert (tmp_path / "run/seed-4" / file).exists()


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    """Three runs of 9 steps that have saved nothing; all steps there are sound, and memory is 16 GB."""
    monkeypatch.setattr(seed_groups, "_ALONE", ())
    monkeypatch.setattr(seed_groups, "_sound", lambda job, step: True)
    monkeypatch.setattr(seed_groups, "_memory", lambda config, count: (int(2e9) * count, int(16e9)))
    config = RunConfig(train=TrainConfig(steps=9))
    return [Job(dataclasses.replace(config, seed=n), tmp_path / f"seed-{n}") for n in range(3)]


def save(job, *numbers):
    for number in numbers:
        (job.workdir / "checkpoints" / str(number)).mkdir(parents=True)
        for name in (steps.COMMIT, steps.MANIFEST):
            (job.workdir / "checkpoints" / str(number) / name).write_text("")


def grouped(jobs):
    """[[(seed, step to go on from)]], and what is said."""
    said = []
    found = seed_groups.groups(jobs, said.append)
    return [[(job.config.seed, job.step) for job in group] for group in found], said


def test_which_go_together(jobs, monkeypatch):
    assert grouped(jobs[:1]) == ([[(0, None)]], [])
    together = [[(0, None), (1, None), (2, None)]]
    said = "seeds      seed-0, seed-1, seed-2: in one program, 6.00 GB of 16.00 GB a device"
    assert grouped(jobs) == (together, [said])
    save(jobs[0], 4, 6)
    assert grouped(jobs)[0] == [[(0, None)], [(1, None), (2, None)]]
    save(jobs[1], 2, 4)
    save(jobs[2], 4, 6)
    assert grouped(jobs)[0] == [[(0, 4), (1, 4), (2, 4)]]
    monkeypatch.setattr(seed_groups, "_sound", lambda job, step: step != 4 or job.config.seed != 1)
    one_by_one = [[(0, None)], [(1, None)], [(2, None)]]
    found, said = grouped(jobs)
    assert found == one_by_one and said[0].endswith(
        "one after the other, for they have saved no step in common"
    )
    save(jobs[1], 9)
    assert grouped(jobs)[0] == [[(1, None)], [(0, 6), (2, 6)]]


def test_why_they_do_not_go_together(jobs, monkeypatch):
    one_by_one = [[(0, None)], [(1, None)], [(2, None)]]
    other = dataclasses.replace(jobs[1].config, train=TrainConfig(steps=10))
    found, said = grouped([jobs[0], jobs[1]._replace(config=other), jobs[2]])
    assert found == [[(0, None), (2, None)], [(1, None)]]
    assert said[0] == "seeds      seed-0, seed-1, seed-2: 2 programs at least, for they differ in train.steps"
    assert said[1:] == ["seeds      seed-0, seed-2: in one program, 4.00 GB of 16.00 GB a device"]
    monkeypatch.setattr(seed_groups, "_memory", lambda config, count: (int(5e9) * count, int(16e9)))
    found, said = grouped(jobs)
    needed = "together they need 15.00 GB of 16.00 GB a device, of which 75% may be used"
    assert found == one_by_one and said[0].endswith(f"one after the other, for {needed}")
    monkeypatch.setattr(seed_groups, "choose", lambda *block: ("cudnn", "the fastest"))
    found, said = grouped(jobs)
    assert found == one_by_one and "the attention kernel cudnn has not been tried on several" in said[0]
    monkeypatch.setattr(seed_groups, "_ALONE", ("cpu",))
    found, said = grouped(jobs)
    assert (
        found == one_by_one and "one after the other, for in one program processors are no faster" in said[0]
    )
    monkeypatch.setattr("jax.process_count", lambda: 2)
    found, said = grouped(jobs)
    assert found == one_by_one and said[0].endswith("for there are 2 processes")
