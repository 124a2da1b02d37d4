"""The linear classifier that a model is compared with."""

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC

from tests.cli.test_finetune import finetune, folder  # noqa: F401 (the fixture)
from tlx import cli
from tlx.base.files import read_json
from tlx.training.journal import read_lines


def test_it_is_the_libraries_own_on_the_same_records(folder, tmp_path, capsys):  # noqa: F811
    assert finetune(folder, tmp_path / "run", "--linear=characters") == 0
    scores = read_json(tmp_path / "run/scores.json")
    assert "test: 40 records" in capsys.readouterr().out
    lines = read_lines(tmp_path / "run/predictions/test.jsonl")
    held_out = {line["record"]["text"] for line in read_lines(tmp_path / "run/predictions/validation.jsonl")}
    train = [row for row in read_lines(folder / "train.jsonl") if row["text"] not in held_out]
    judge = make_pipeline(
        TfidfVectorizer(sublinear_tf=True, analyzer="char_wb", ngram_range=(1, 4), min_df=2),
        LinearSVC(random_state=0),
    ).fit([row["text"] for row in train], [row["label"] for row in train])
    found = [line["answer"]["label"] for line in lines]
    agree = np.mean(found == judge.predict([line["record"]["text"] for line in lines]))
    assert agree >= 0.95, "texts that occur in both parts are the only difference"
    right = np.mean([line["answer"]["label"] == line["record"]["label"] for line in lines])
    assert scores["test"]["accuracy"] == right > 0.9


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--linear=letters"], "words, characters"),
        (["--linear=words", "--seeds=2"], "leave out --from, --scratch and --seeds"),
        (["--linear=words", "--config.objective.multi_label=True"], "one class a record"),
    ],
)
def test_what_it_is_not_for(folder, tmp_path, capsys, words, message):  # noqa: F811
    assert finetune(folder, tmp_path / "run", *words) != 0
    assert message in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_tasks_without_classes_are_refused(capsys):
    assert cli.main(["finetune", "--config=finetune/similarity:tiny", "--linear=words"]) != 0
    assert "one class a record" in capsys.readouterr().err
