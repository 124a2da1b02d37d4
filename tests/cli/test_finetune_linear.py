"""The linear classifier that a model is compared with."""

import json

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
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


def test_a_linear_reward_model_finds_what_is_preferred(tmp_path):
    """The judge is scikit-learn's logistic regression on the same differences, by hand."""
    rng = np.random.default_rng(0)
    words = ["kind", "rude", "long", "word", "text"]
    texts = [" ".join(rng.choice(words, 5)) for _ in range(400)]
    pairs = []
    for first, second in zip(texts[::2], texts[1::2], strict=True):
        better, worse = sorted((first, second), key=lambda text: text.count("rude") - text.count("kind"))
        pairs.append({"prompt": "say", "chosen": better, "rejected": worse})
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    words = [
        "finetune",
        "--config=posttrain/reward",
        f"--config.data.records.train=('{tmp_path}/pairs.jsonl',)",
    ]
    accuracy = {}
    for unit in ("words", "length"):
        assert cli.main([*words, f"--linear={unit}", f"--workdir={tmp_path / unit}"]) == 0
        accuracy[unit] = read_json(tmp_path / unit / "scores.json")["validation"]["accuracy"]
    assert accuracy["words"] > 0.9 and accuracy["length"] < 0.8
    lines = read_lines(tmp_path / "words/predictions/validation.jsonl")
    held_out = {json.dumps(line["record"]) for line in lines}
    train = [pair for pair in pairs if json.dumps(pair) not in held_out]
    judge = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), token_pattern=r"(?u)\S+")
    judge.fit([pair[name] for pair in train for name in ("chosen", "rejected")])
    rows = judge.transform([p["chosen"] for p in train]) - judge.transform([p["rejected"] for p in train])
    both = np.concatenate([rows.toarray(), -rows.toarray()])
    labels = np.repeat([1, 0], len(train))
    weights = LogisticRegression(C=0.5, fit_intercept=False, max_iter=1000).fit(both, labels).coef_[0]
    expected = [judge.transform([line["record"]["chosen"]]).toarray()[0] @ weights for line in lines]
    found = [line["answer"]["rewards"][0] for line in lines]
    np.testing.assert_allclose(found, expected, atol=1e-3)
