"""Every config of configs/finetune on the real files it is for, where they are: records become batches."""

import json
import runpy

import numpy as np
import pytest

from tests.cli.tiny import ROOT
from tests.shared_data import SHARED_DATA
from tlx.base.errors import ConfigError
from tlx.data.records import build_records
from tlx.run.checks import resolve
from tlx.run.config import get_objective
from tlx.run.spec import abstract_batch, spec_of
from tlx.text import make_tokenizer
from tlx.trainer.task_config import complete_task_config

FOLDER = ROOT / "configs/finetune"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py"))
SHARED = SHARED_DATA / "text"

# (config, argument) -> training and validation files.
FILES = {
    ("chat", "self_instruct"): ("self_instruct_seed/seed_tasks.jsonl", ""),
    ("chatbot", ""): ("ko_chatbot/ChatbotData.csv.gz", ""),
    ("choices", ""): ("kobest/COPA.train.tsv", "kobest/COPA.dev.tsv"),
    ("coreference", "gap"): ("../coreference/gap-development.tsv", "../coreference/gap-validation.tsv"),
    ("entities", ""): ("wnut17/wnut17train.conll.gz", "wnut17/emerging.dev.conll"),
    ("entities", "characters"): ("klue_ner/klue-ner-v1.1_dev.first4000.tsv.gz", ""),
    ("instability", ""): ("pawsx_ko/dev_2k.tsv.gz", ""),
    ("intents", ""): ("clinc150/data_full.train_val.json.gz::train", ""),
    ("pairs", ""): ("klue_nli/klue-nli-v1.1_dev.json.gz", ""),
    ("pairs", "kornli"): ("kornli/xnli.dev.ko.tsv.gz", ""),
    ("questions", ""): ("xquad/xquad.en.articles01-36.json", ""),
    ("questions", "no_answer"): ("covid_qa/200423_covidQA.json.gz", ""),
    ("reviews", ""): ("nsmc/ratings_train.txt.gz", ""),
    ("sentence_polarity", "100"): ("sentence_polarity/rt-polarity.*.gz", ""),
    ("summaries", ""): ("scitldr/train.jsonl.gz", "scitldr/dev.jsonl.gz"),
    ("summaries", "tldr"): ("scitldr/dev.jsonl.gz", ""),
    ("text", ""): ("react_docs_ko/train.jsonl.gz", ""),
    ("text", "lines"): ("ko_reviews_text/val.txt.gz", ""),
    ("translation", ""): ("python_docs_ko_en/train.jsonl.gz", "python_docs_ko_en/dev.jsonl.gz"),
    ("translation", "en:new_encoder"): ("python_docs_ko_en/dev.jsonl.gz", ""),
    ("similarity", ""): ("korsts/sts-train.tsv.gz", "korsts/sts-dev.tsv"),
}


def load(name, arg):
    return runpy.run_path(str(FOLDER / f"{name}.py"))["get_config"](arg)


def test_every_config_has_its_files():
    assert {name for name, _ in FILES} | {"base", "quickstart", "multitask", "elmo"} == set(NAMES)


@pytest.mark.parametrize("objective", ["mlm", "clm", "span_corruption", "plm"])
def test_a_base_of_each_shape_is_as_deep(objective):
    values = load("base", objective)
    values.data.text.files = ("*.txt",)
    model = resolve(values).model
    assert model.num_layers + model.num_decoder_layers == 4 and model.width == 192
    assert resolve(load("base", f"{objective}:tiny")).model.width == 64


@pytest.mark.slow
def test_several_tasks_at_once_on_real_files():
    if not SHARED.exists():
        pytest.skip(f"no {SHARED}")
    values = load("multitask", f"{SHARED}:tiny")
    values.tokenizer.kind = "bytes"
    (*others, questions) = values.data.records.sets
    files = {"train": (str(SHARED / "xquad/xquad.en.articles01-36.json"),)}
    values.data.records.sets = (*others, {**questions, **files})
    config = complete_task_config(values.to_dict(), None)
    tokenizer = make_tokenizer(config.tokenizer, ())
    rest = {"batch_size": 8, "seed": 0}
    pipeline = build_records(
        config.data, tokenizer, get_objective(config), spec_of(config, tokenizer), **rest
    )
    assert [record.set for record in pipeline.records[::8]] == ["reviews", "nli", "sts", "questions"]
    read = [tokenizer.decode(row).split(":")[0] for row in pipeline.batch(0)["tokens"]]
    assert sorted(set(read)) == ["nli hypothesis", "question", "review", "sts sentence1"]


def test_the_quickstart_needs_no_files():
    config = complete_task_config(load("quickstart", "tiny").to_dict(), None)
    assert len(config.objective.labels) == 8 and config.train.steps == 16


def test_a_pass_is_over_windows_where_records_are_cut(tmp_path):
    context = "The year was 1869. " * 40
    answers = [{"text": "1869", "answer_start": context.index("1869")}]
    asked = [{"id": str(number), "question": "When?", "answers": answers} for number in range(4)]
    values = {"data": [{"title": "", "paragraphs": [{"context": context, "qas": asked}]}]}
    (tmp_path / "asked.json").write_text(json.dumps(values))
    config = load("questions", "")
    config.tokenizer.kind, config.data.sequence_length, config.train.batch_size = "bytes", 128, 1
    config.data.records.train = config.data.records.validation = (str(tmp_path / "asked.json"),)
    config.data.records.epochs = 2.0
    config = complete_task_config(config.to_dict(), None)
    tokenizer = make_tokenizer(config.tokenizer, ())
    rest = {"batch_size": 1, "seed": 0}
    pipeline = build_records(
        config.data, tokenizer, get_objective(config), spec_of(config, tokenizer), **rest
    )
    assert config.train.steps == 2 * pipeline.num_windows > 2 * 4 * 5


@pytest.mark.parametrize("name", NAMES)
def test_a_word_that_means_nothing_is_named(name):
    with pytest.raises(ConfigError, match="'tinny' is not one of: .*did you mean 'tiny'"):
        load(name, "tinny")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "arg"), FILES)
def test_real_records_become_batches(name, arg):
    train, validation = FILES[name, arg]
    if not list(SHARED.glob(train.partition("::")[0])):
        pytest.skip(f"no {SHARED / train}")
    values = load(name, ":".join(filter(None, [arg, "tiny"])))
    values.tokenizer.kind = "bytes"
    values.data.records.train = (str(SHARED / train),)
    values.data.records.validation = (str(SHARED / validation),) if validation else ()
    config = complete_task_config(values.to_dict(), None)
    tokenizer = make_tokenizer(config.tokenizer, ())
    task, spec = get_objective(config), spec_of(config, tokenizer)
    rest = {"batch_size": config.train.batch_size, "seed": 0}
    pipeline = build_records(config.data, tokenizer, task, spec, **rest)
    assert len(pipeline.records) == config.data.records.limit
    batch = pipeline.batch(0)
    expected = abstract_batch(config, spec)
    assert {key: (x.shape, x.dtype) for key, x in batch.items()} == {
        key: (x.shape, x.dtype) for key, x in expected.items()
    }
    assert (batch["weights"].reshape(len(batch["weights"]), -1).sum(axis=1) > 0).all()
    assert np.isfinite(batch["label" if "label" in batch else "targets"]).all()
