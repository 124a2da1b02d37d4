"""`tlx finetune` as a user runs it: from a run of any shape to scores, predictions and `predict`."""

import dataclasses
import json
import pathlib
import random

import numpy as np
import pytest

import tlx
from tests.hub import folders
from tests.run_directory import write_run
from tlx import cli
from tlx.base import tree
from tlx.base.files import read_json
from tlx.models.families import TABLE as FAMILIES
from tlx.training.journal import read_lines

_CONFIG = """
from tlx.run import finetune_config

def get_config(arg=""):
    config = finetune_config(arg or "classification")
    records = config.data.records
    records.train, records.test = ({train!r},), ({test!r},)
    records.validation_fraction, records.epochs = 0.25, 15.0
    config.data.sequence_length = 16
    config.train.batch_size, config.optimizer.learning_rate = 16, 1e-2
    config.model.init.stddev = 0.4
    config.eval.every, config.checkpoint.every, config.log.tensorboard = 50, 6, False
    return config
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """task.py, and records whose label is whether the text is of vowels."""
    folder, rng = tmp_path_factory.mktemp("finetune"), random.Random(0)
    for name, count in (("train", 130), ("test", 40)):
        rows = []
        for _ in range(count):
            label = rng.choice(["yes", "no"])
            text = "".join(rng.choices("aeiou" if label == "yes" else "bcdfg", k=rng.randint(1, 9)))
            rows.append(json.dumps({"text": text, "label": label}))
        (folder / f"{name}.jsonl").write_text("\n".join(rows))
    paths = {name: str(folder / f"{name}.jsonl") for name in ("train", "test")}
    (folder / "task.py").write_text(_CONFIG.format(**paths))
    return folder


def finetune(folder, workdir, *words, base=None):
    start = [] if base is None else [f"--from={base}"]
    return cli.main(["finetune", f"--config={folder / 'task.py'}", f"--workdir={workdir}", *start, *words])


# One step that changes nothing one could see.
SHORT = (
    "--config.train.steps=1",
    "--config.data.records.epochs=0",
    "--config.eval.final=False",
    "--config.optimizer.learning_rate=1e-9",
)


def params_of(run):
    return {path: np.asarray(leaf) for path, leaf in tree.flatten(tlx.load(run).params).items()}


@pytest.mark.slow
def test_from_a_run_to_scores_and_predictions(folder, tmp_path, capsys):
    base = write_run(tmp_path / "base", "mlm")
    assert finetune(folder, tmp_path / "run", base=base) == 0
    out = capsys.readouterr().out
    assert "test: 40 records" in out and "95%, bootstrap" in out
    scores = read_json(tmp_path / "run/scores.json")
    assert scores["test"]["accuracy"] > 0.9  # chance: one half
    assert scores["test"]["interval_95"][0] <= scores["test"]["accuracy"]
    lines = read_lines(tmp_path / "run/predictions/test.jsonl")
    right = [line["answer"]["label"] == line["record"]["label"] for line in lines]
    assert np.mean(right) == scores["test"]["accuracy"] and len(right) == 40
    assert (tmp_path / "run/confusion_test.png").exists()

    lm = tlx.load(tmp_path / "run")
    answers = lm.predict([line["record"]["text"] for line in lines])
    assert [answer["label"] for answer in answers] == [line["answer"]["label"] for line in lines]
    assert lm.predict("aei") == lm.predict({"text": "aei"})
    with pytest.raises(tlx.base.errors.ConfigError, match="fine-tuned for classification; use predict"):
        lm.fill("[MASK]")
    evaluate = ["evaluate", str(tmp_path / "run"), "--json"]
    capsys.readouterr()
    assert cli.main([*evaluate, f"--data={folder / 'test.jsonl'}", f"--predictions={tmp_path / 'p'}"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["interval_95"] == scores["test"]["interval_95"]
    assert again["loss"] == pytest.approx(scores["test"]["loss"], rel=1e-4)
    assert (tmp_path / "p").read_text() == (tmp_path / "run/predictions/test.jsonl").read_text()
    check_stress(tmp_path, folder, scores["test"]["accuracy"], capsys)
    # From Python: the finished run, resumed. Epochs, labels and the base's model act there too, or the config
    # would not be the one that the run was started with.
    result = tlx.finetune(f"{folder / 'task.py'}", base=base, workdir=tmp_path / "run")
    assert result.metrics == scores
    assert result.model.predict("aei") == lm.predict("aei")
    evaluated = tlx.evaluate(result.model, data=str(folder / "test.jsonl")).metrics
    assert evaluated == {name: value for name, value in again.items() if name not in ("run", "step")}
    saved = read_json(tmp_path / "run/run.json")["config"]
    assert saved["objective"]["labels"] == ["no", "yes"] and saved["base"]["path"] == str(base)
    assert saved["train"]["steps"] == round(15 * read_train_count(tmp_path / "run") / 16)


def check_stress(tmp_path, folder, accuracy, capsys):
    """Stress tests of the run: typos in words of its letters, records outside, and lists with and without labels."""
    files = {name: str(tmp_path / name) for name in ("outside.jsonl", "named.jsonl", "unnamed.jsonl")}
    for name, path in files.items():
        label = {"label": "yes"} if name == "named.jsonl" else {}
        rows = [json.dumps({"text": text, **label}) for text in ("aeiou", "eioua")]
        pathlib.Path(path).write_text("\n".join(rows))
    lists = {
        "outside": files["outside.jsonl"],
        "harmful": [files["named.jsonl"], files["unnamed.jsonl"]],
        "typo_fraction": 1.0,
    }
    (tmp_path / "lists.json").write_text(json.dumps(lists))
    stress = ["evaluate", str(tmp_path / "run"), "--split=test", f"--stress={tmp_path / 'lists.json'}"]
    assert cli.main([*stress, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["stress"]
    found = {(row["test"].split("/")[0], row["figure"]): row["value"]["value"] for row in rows}
    assert found["as they are", "accuracy"] == accuracy and rows[0]["records"] == 40
    # Letters are exchanged, and the label is of letters in any order.
    assert found["typos", "unchanged"] > 0.8 and 0 <= found["outside", "auroc"] <= 1
    assert found["harmful: ", "accuracy"] == 1.0 and found["harmful: ", "label yes"] == 1.0
    (tmp_path / "lists.json").write_text('{"typo": 1}')
    assert cli.main(stress) != 0
    assert "stress" in capsys.readouterr().err


def read_train_count(run):
    """130 records less those held out, which the predictions list."""
    return 130 - len(read_lines(run / "predictions/validation.jsonl"))


@pytest.mark.long
def test_a_run_in_two_halves_is_the_run_in_one(folder, tmp_path, capsys):
    base = write_run(tmp_path / "base", "clm")
    more = "--config.model.dropout=0.1"
    schedule = "--config.optimizer.schedule.name=constant"
    for epochs, run in ((4, "one"), (2, "two"), (4, "two")):
        words = [
            more,
            schedule,
            "--config.optimizer.schedule.warmup=3",
            f"--config.data.records.epochs={epochs}",
        ]
        allowed = "--allow-change=data.records.epochs"
        assert finetune(folder, tmp_path / run, *words, allowed, base=base) == 0
    assert "resuming" in capsys.readouterr().out
    one, two = params_of(tmp_path / "one"), params_of(tmp_path / "two")
    assert all(np.array_equal(one[path], two[path]) for path in one)
    assert tlx.load(tmp_path / "one").config.model.dropout == 0.1


@pytest.mark.long
def test_scratch_is_the_same_model_with_fresh_parameters(folder, tmp_path):
    base = write_run(tmp_path / "base", "span_corruption")
    assert finetune(folder, tmp_path / "run", *SHORT, "--scratch", base=base) == 0
    theirs, fresh = (params_of(tmp_path / name) for name in ("base", "run"))
    assert {path: leaf.shape for path, leaf in theirs.items()}.items() <= {
        path: leaf.shape for path, leaf in fresh.items()
    }.items()
    path = "model/encoder/blocks/attention/query/kernel"
    assert not np.allclose(fresh[path], theirs[path], atol=0.05)
    assert read_json(tmp_path / "run/run.json")["config"]["base"] == {
        "path": "",
        "hash": "",
        "param_dtype": "",
    }


@pytest.mark.long
def test_from_a_hugging_face_directory(folder, tmp_path):
    """Its tokenizer, its parameters and its pooler come along."""
    pytest.importorskip("tokenizers")
    tokenizer = folders.word_pieces(tmp_path / "hf")
    base = FAMILIES.load("bert").base
    model = dataclasses.replace(
        base,
        vocab_size=tokenizer.get_vocab_size(),
        width=16,
        num_layers=1,
        attention=dataclasses.replace(base.attention, num_heads=2),
        feedforward=dataclasses.replace(base.feedforward, ff_dim=32),
        position=dataclasses.replace(base.position, max_length=16),
    )
    folders.write(tmp_path / "hf", "bert", model, ("heads/nsp",))
    assert finetune(folder, tmp_path / "run", *SHORT, base=tmp_path / "hf") == 0
    theirs, ours = tlx.load(tmp_path / "hf"), tlx.load(tmp_path / "run")
    assert ours.tokenizer.hash == theirs.tokenizer.hash
    expected = tree.flatten({"model": theirs.params["model"]})
    for path, leaf in tree.flatten(theirs.params["heads"]["nsp"]["pooler"]).items():
        expected[f"heads/classification/pooler/{path}"] = leaf
    found = tree.flatten(ours.params)
    assert len(expected) == len(found) - 2  # the classifier
    for path, leaf in expected.items():
        np.testing.assert_allclose(found[path], leaf, atol=1e-6, err_msg=path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config.objective.label=lable"], "objective.label = 'lable' is not one of: text, label"),
        (["--config.data.records.train=('nowhere.tsv',)"], "matches no file"),
        (["--config.data.records.format=csv"], "train.jsonl:2 has"),
        (["--scratch"], "--scratch takes the model of --from=DIR"),
        (["--config.data.sequence_length=3"], "data.sequence_length = 3"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(folder, tmp_path, words, message, capsys):
    assert finetune(folder, tmp_path / "run", *words) == 64
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_verbs_know_what_they_train(folder, tmp_path, capsys):
    assert cli.main(["train", f"--config={folder / 'task.py'}"]) == 64
    assert "use: tlx finetune" in capsys.readouterr().err
    assert cli.main(["finetune", "--config=quickstart:tiny"]) == 64
    assert "is no task; tasks are chat, classification" in capsys.readouterr().err
    assert cli.main(["config", f"--config={folder / 'task.py'}"]) == 0
    assert "objective.label = 'label'" in capsys.readouterr().out
