"""`tlx finetune` where answers are written: it learns, and its scores are those of its predictions file."""

import json
import random
import runpy

import pytest
import sacrebleu

import tlx
from tests.run_directory import write_run
from tlx import cli
from tlx.base.files import read_json
from tlx.data.records import prepare_records_tokenizer
from tlx.run import base_config, resolve
from tlx.tasks.generation import TASK
from tlx.train.journal import read_lines

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
        rows = [json.dumps({"text": text, "upper": [text.upper(), text.upper()]}) for text in texts]
        (folder / f"{name}.jsonl").write_text("\n".join(rows))
    paths = {name: str(folder / f"{name}.jsonl") for name in ("train", "test")}
    (folder / "task.py").write_text(_CONFIG.format(**paths))
    return folder


def finetune(folder, workdir, *words):
    return cli.main(["finetune", f"--config={folder / 'task.py'}", f"--workdir={workdir}", *words])


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["clm", "span_corruption"])
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
    columns = (*TASK.texts(config.objective), *TASK.written(config.objective))
    tokenizer = prepare_records_tokenizer(config.tokenizer, config.data, columns)
    pieces = {tokenizer.decode([index]).strip() for index in range(tokenizer.vocab.size)}
    assert any(len(piece) == 2 and piece.isupper() for piece in pieces)
