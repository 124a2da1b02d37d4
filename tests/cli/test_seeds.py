"""Several seeds of one fine-tuning."""

import json

import pytest

from tests.cli.test_finetune import SHORT, finetune, folder  # noqa: F401 (the fixture)
from tests.run_directory import write_run
from tlx.base.files import read_json, write_json
from tlx.cli.seeds import summarize


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


@pytest.mark.slow
def test_runs_of_their_own(folder, tmp_path, capsys):  # noqa: F811
    base = write_run(tmp_path / "base", "mlm")
    words = [*SHORT, "--config.eval.final=True", "--seeds=2", "--config.seed=3"]
    assert finetune(folder, tmp_path / "run", *words, base=base) == 0
    scores = read_json(tmp_path / "run/seeds.json")["validation"]["scores"]
    assert set(scores) == {"3", "4"} and "2 seeds: accuracy" in capsys.readouterr().out
    assert [read_json(tmp_path / f"run/seed-{n}/run.json")["config"]["seed"] for n in (3, 4)] == [3, 4]
