"""Runs side by side."""

import json

import pytest
import scipy.stats

from tlx import cli
from tlx.base.files import write_json
from tlx.metrics.resampling import of_runs
from tlx.training import directory


def write(folder, limit, base, seed, score=None, **splits):
    folder.mkdir(parents=True)
    config = {
        "name": folder.name,
        "seed": seed,
        "data": {"records": {"limit": limit}},
        "base": {"path": base},
        "train": {"steps": limit // 10},
        "log": {"every": seed},
    }
    directory.write_run(folder, config, "tokenizer", {"fingerprint": "none"}, {"data": 1}, 1)
    figures = {"main": "accuracy", "accuracy": score, "loss": 1.5, "records": 10, "same_answer": [0.5]}
    if score is not None:
        write_json(folder / "scores.json", {"validation": figures} | splits)


@pytest.fixture
def runs(tmp_path):
    for limit in (100, 1000, 10_000):
        for base in ("", "runs/mlm"):
            for seed in range(3):
                score = 0.5 + limit / 30_000 + 0.01 * seed + 0.1 * bool(base)
                write(tmp_path / f"{limit}-{base[-3:]}" / f"seed-{seed}", limit, base, seed, score)
    return tmp_path


def report(capsys, *words):
    code = cli.main(["report", *map(str, words)])
    return code, capsys.readouterr()


def test_groups_and_intervals_over_seeds(runs, capsys):
    code, said = report(capsys, *runs.iterdir(), "--json")
    found = json.loads(said.out)
    assert code == 0 and found["score"] == "accuracy"
    keys = [(row["data.records.limit"], row["base.path"]) for row in found["rows"]]
    assert keys == [(limit, base) for limit in (100, 1000, 10_000) for base in ("", "runs/mlm")]
    for row in found["rows"]:
        mean, scores = row["mean"], row["scores"]
        judged = scipy.stats.ttest_1samp(scores, 0.0).confidence_interval(0.95)
        assert row["interval_95"] == pytest.approx([judged.low, judged.high])
        assert mean == pytest.approx(sum(scores) / 3) and len(scores) == 3


def test_a_table_and_a_picture(runs, capsys):
    words = ("--by=data.records.limit,base.path", f"--plot={runs}/gain.png")
    code, said = report(capsys, *sorted(path for path in runs.iterdir()), *words)
    lines = said.out.splitlines()
    assert code == 0 and lines[0] == "| data.records.limit | base.path | accuracy | runs |"
    assert lines[2] == "| 100 | none | 0.5133 ± 0.0248 | 3 |" and len(lines) == 8
    assert (runs / "gain.png").stat().st_size > 5000


def test_the_test_records_count_where_all_have_them(tmp_path, capsys):
    other = {"main": "accuracy", "accuracy": 0.25}
    write(tmp_path / "a", 100, "", 0, 0.75, test=other)
    write(tmp_path / "b", 200, "", 0, 0.5, test=other)
    assert [row["mean"] for row in json.loads(report(capsys, tmp_path, "--json")[1].out)["rows"]] == [
        0.25,
        0.25,
    ]
    write(tmp_path / "c", 300, "", 0, 0.5)
    means = [row["mean"] for row in json.loads(report(capsys, tmp_path, "--json")[1].out)["rows"]]
    assert means == [0.75, 0.5, 0.5]


def test_pretraining_has_its_last_evaluation(tmp_path, capsys):
    for number, folder in enumerate((tmp_path / "a", tmp_path / "b")):
        write(folder, 100 + number, "", 0)
        lines = [{"kind": "train", "loss": 9.0}, {"kind": "final", "step": 100, "loss": 3.0 + number}]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write(tmp_path / "unfinished", 500, "", 0)
    _, said = report(capsys, tmp_path, "--json")
    assert [row["mean"] for row in json.loads(said.out)["rows"]] == [3.0, 4.0]
    assert "unfinished has no scores yet" in said.err


@pytest.mark.parametrize(
    ("word", "known"),
    [
        ("--by=data.records.limits", "data.records.limit"),
        ("--score=acuracy", "accuracy"),
        ("--split=tset", "validation"),
    ],
)
def test_what_there_is_not_is_said_with_what_there_is(runs, capsys, word, known):
    code, said = report(capsys, *runs.iterdir(), word)
    assert code != 0 and word.split("=")[1] in said.err and known in said.err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is no JSON: "),
        ("[" * 100_000, "is no JSON: "),
        ("[3]", "must hold an object of metrics for each split"),
        ('{"validation": 3}', "must hold an object of metrics for each split"),
        ('{"validation": {"main": 4, "loss": 1.0}}', "must hold an object of metrics for each split"),
        ('{"validation": {"main": "loss", "loss": null}}', "has no metric that is a number"),
        (None, "is a folder where a file is expected"),
    ],
)
def test_damaged_scores_are_one_line(tmp_path, capsys, content, message):
    write(tmp_path / "run", 100, "", 0)
    path = tmp_path / "run" / "scores.json"
    if content is None:
        path.mkdir()
    else:
        path.write_text(content)
    code, said = report(capsys, path.parent)
    assert code == 64 and said.err.count("\n") == 1
    assert str(path.parent) in said.err and message in said.err


def test_a_folder_without_runs(tmp_path, capsys):
    code, said = report(capsys, tmp_path)
    assert code != 0 and "no run" in said.err


def test_one_run_says_nothing_of_seeds():
    assert of_runs([0.5]) == (0.5, 0.5, 0.5)
