"""`tlx finetune` where answers are written: it learns, and its scores are those of its predictions file."""

import json
import random
import runpy

import numpy as np
import pytest
import sacrebleu

import tlx
from tests.run_directory import write_run
from tests.tiers import tiers
from tlx import cli
from tlx.base import tree
from tlx.base.files import read_json
from tlx.data.records import prepare_records_tokenizer
from tlx.run import base_config
from tlx.run.checks import resolve
from tlx.tasks.generation import TASK
from tlx.training.journal import read_lines

_CONFIG = """
from tlx.run import finetune_config

def get_config(arg=""):
    config = finetune_config("generation")
    config.objective.source, config.objective.target = "upper: {{text}}", "{{upper}}"
    config.objective.metrics = ("accuracy", "chrf", "rougeL")
    config.objective.target_length = 6
    records = config.data.records
    records.train, records.test = ({train!r},), ({test!r},)
    records.validation_fraction, records.epochs = 0.1, 12.0
    config.data.sequence_length = 24
    config.train.batch_size, config.optimizer.learning_rate = 16, 2e-2
    config.model.width, config.model.init.stddev = 16, 0.4
    config.eval.every, config.checkpoint.every, config.log.tensorboard = 0, 50, False
    return config
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """task.py, and records whose answer is the text's two letters in capitals."""
    folder, rng = tmp_path_factory.mktemp("written"), random.Random(0)
    for name, count in (("train", 400), ("test", 30)):
        texts = ["".join(rng.choices("abcdef", k=2)) for _ in range(count)]
        rows = [
            json.dumps({"text": text, "upper": [text.upper()] * 2, "first": text[0] < "d"}) for text in texts
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(rows))
    paths = {name: str(folder / f"{name}.jsonl") for name in ("train", "test")}
    (folder / "task.py").write_text(_CONFIG.format(**paths))
    return folder


_SEVERAL = """
import runpy
from tlx.run import finetune_config

def get_config(arg=""):
    config = runpy.run_path({task!r})["get_config"]()
    files, config.data.records.train = config.data.records.train, ()
    config.objective = finetune_config("multitask").objective
    config.objective.target_length = 6
    upper = dict(name="upper", source="upper: {{text}}", target="{{upper}}", metrics=("chrf", "accuracy"))
    words = (("True", "yes"), ("False", "no"))
    first = dict(name="first", source="a? {{text}}", target="{{first}}", label_words=words, metrics=("accuracy",))
    config.objective.parts = (upper, first)
    sets = dict(train=files, test=config.data.records.test)
    config.data.records.sets = (dict(name="upper", **sets), dict(name="first", limit=90, **sets))
    config.data.records.test, config.data.records.temperature = (), 2.0
    config.data.records.epochs, config.optimizer.schedule.name = 8.0, "constant"
    return config
"""


def finetune(folder, workdir, *words):
    return cli.main(["finetune", f"--config={folder / 'task.py'}", f"--workdir={workdir}", *words])


@pytest.mark.parametrize("objective", tiers(["clm", "span_corruption"], slow=[]))
def test_from_a_run_to_texts_that_score(folder, tmp_path, capsys, objective):
    base = write_run(tmp_path / "base", objective)
    assert finetune(folder, tmp_path / "run", f"--from={base}") == 0
    capsys.readouterr()
    scores = read_json(tmp_path / "run/scores.json")["test"]
    lines = read_lines(tmp_path / "run/predictions/test.jsonl")
    said = [line["answer"]["answer"] for line in lines]
    known = [line["record"]["upper"] for line in lines]
    assert scores["accuracy"] == sum(a == k[0] for a, k in zip(said, known, strict=True)) / 30
    assert scores["accuracy"] > 0.5  # chance: 1 in 36
    assert scores["chrf"] == sacrebleu.corpus_chrf(said, [[k[0] for k in known]]).score
    assert scores["interval_95"][0] <= scores["accuracy"] <= scores["interval_95"][1]
    lm = tlx.load(tmp_path / "run")
    assert [one["answer"] for one in lm.predict([line["record"]["text"] for line in lines])] == said
    assert cli.main(["evaluate", str(tmp_path / "run"), "--json", f"--data={folder / 'test.jsonl'}"]) == 0
    assert json.loads(capsys.readouterr().out)["chrf"] == scores["chrf"]


def test_a_vocabulary_of_its_own_knows_the_answers(folder):
    config = runpy.run_path(str(folder / "task.py"))["get_config"]()
    config.model = base_config("generation").model
    config.tokenizer.vocab_size = 420
    config = resolve(config)
    columns = (*TASK.text_columns(config.objective), *TASK.target_columns(config.objective))
    tokenizer = prepare_records_tokenizer(config.tokenizer, config.data, columns)
    pieces = {tokenizer.decode([index]).strip() for index in range(tokenizer.vocab.size)}
    assert any(len(piece) == 2 and piece.isupper() for piece in pieces)


@pytest.mark.long
def test_several_tasks_at_once_in_two_halves(folder, tmp_path, capsys):
    config = folder / "several.py"
    config.write_text(_SEVERAL.format(task=str(folder / "task.py")))
    base = write_run(tmp_path / "base", "clm")
    words = ["finetune", f"--config={config}", f"--from={base}", "--allow-change=data.records.epochs"]
    words += ["--allow-change=train.steps", "--config.optimizer.schedule.warmup=5"]
    for epochs, run in ((8, "one"), (3, "two"), (8, "two")):
        final = f"--config.eval.final={run == 'one'}"
        more = [f"--workdir={tmp_path / run}", f"--config.data.records.epochs={epochs}", final]
        assert cli.main([*words, *more, "--allow-change=eval.final"]) == 0
    one, two = (tree.flatten(tlx.load(tmp_path / run).params) for run in ("one", "two"))
    assert all(np.array_equal(one[path], two[path]) for path in one)
    scores = read_json(tmp_path / "one/scores.json")["test"]
    lines = read_lines(tmp_path / "one/predictions/test.jsonl")
    said = [line["answer"]["answer"] for line in lines]
    assert len(lines) == 60 and scores["first.accuracy"] > 0.7 and scores["upper.accuracy"] > 0.2
    right = [
        answer == ("yes" if line["record"]["first"] else "no")
        for answer, line in zip(said, lines, strict=True)
    ]
    assert scores["first.accuracy"] == np.mean(right[30:])
    known = [[line["record"]["upper"][0] for line in lines[:30]]]
    assert scores["upper.chrf"] == sacrebleu.corpus_chrf(said[:30], known).score
    assert scores["mean"] == pytest.approx((scores["upper.chrf"] / 100 + scores["first.accuracy"]) / 2)
    lm = tlx.load(tmp_path / "one")
    assert lm.predict({"task": "first", "text": lines[0]["record"]["text"]}) == lines[30]["answer"]
    assert cli.main(["evaluate", str(tmp_path / "one"), "--data=x.jsonl"]) == 64
    assert "several sets of records (upper, first)" in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.slow
def test_a_decoder_learns_texts_of_its_own_kind(folder, tmp_path, capsys):
    base = write_run(tmp_path / "base", "clm")
    config = folder / "texts.py"
    lines = _CONFIG.split("config.objective.source")[0].replace("generation", "language_modeling")
    rest = "    records = config.data.records" + _CONFIG.split("    records = config.data.records")[1]
    config.write_text(
        (lines.rstrip() + "\n" + rest).format(
            train=str(folder / "train.jsonl"), test=str(folder / "test.jsonl")
        )
    )
    words = [f"--from={base}", f"--workdir={tmp_path / 'run'}", "--config.data.records.epochs=60"]
    assert cli.main(["finetune", f"--config={config}", *words]) == 0
    scores = read_json(tmp_path / "run/scores.json")["test"]
    lines = read_lines(tmp_path / "run/predictions/test.jsonl")
    nats, size = (sum(line["answer"][name] for line in lines) for name in ("nats", "bytes"))
    assert scores["bits_per_byte"] == pytest.approx(nats / np.log(2) / size) and size == 60
    assert scores["bits_per_byte"] < 3.0  # two of six letters are 2.58; a byte of 256, 8
    steps = read_json(tmp_path / "run/run.json")["config"]["train"]["steps"]
    assert 100 < steps < 250  # 60 passes over rows of six or seven texts
    assert scores["main"] == "bits_per_byte" and scores["lower_is_better"]
    lm = tlx.load(tmp_path / "run")
    ids, vocab = lm.tokenizer.encode("ab"), lm.tokenizer.vocab
    y = lm.logits([vocab.bos, *ids])[0].astype(np.float64)
    log_p = (y - np.log(np.exp(y).sum(axis=-1, keepdims=True)))[range(3), [*ids, vocab.eos]]
    assert lm.predict("ab")["nats"] == pytest.approx(-log_p.sum(), rel=1e-4)
    assert lm.score("ab").log_likelihood == pytest.approx(log_p[:2].sum(), rel=1e-4)  # without the end
    texts = lm.generate([""] * 4, temperature=0.5, max_tokens=3)
    assert all(len(text) == 2 and set(text) <= set("abcdef") for text in texts)
