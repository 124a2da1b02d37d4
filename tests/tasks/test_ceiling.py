"""Scores of correct predictions after tokenization, and spans of decomposed text."""

import json
import unicodedata

import numpy as np
import pytest

from tests.tasks import small
from tlx.data.readers import Record
from tlx.tasks import TABLE
from tlx.tasks.question_answering import context_range
from tlx.tasks.shared.base import TaskSpec
from tlx.text.huggingface_tokenizer import HuggingFaceTokenizer

TAGS = TABLE.load("token_classification")
ANSWERS = TABLE.load("question_answering")
SENTENCES = ("김철수는 부산에서 태어났다", "박영희는 서울에서 살았다", "the café sat")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """A BPE tokenizer that composes characters and makes words of several characters one id."""
    tokenizers = pytest.importorskip("tokenizers")
    from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

    made = tokenizers.Tokenizer(models.BPE(unk_token="<unk>"))
    made.normalizer = normalizers.NFKC()
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.BpeTrainer(vocab_size=200, special_tokens=special, show_progress=False)
    made.train_from_iterator([*SENTENCES * 20, *"".join(SENTENCES)], trainer)
    folder = tmp_path_factory.mktemp("tokenizer")
    made.save(str(folder / "tokenizer.json"))
    roles = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(roles))
    return HuggingFaceTokenizer.from_folder(folder)


def people(sentence):
    """The sentence's characters, the first three of which are a person's name and the fourth is not."""
    tags = ["B-PS", "I-PS", "I-PS"] + ["O"] * (len(sentence) - 3)
    return {"tokens": list(sentence), "tags": tags}


CHARACTERS = small.records_of(*map(people, SENTENCES[:2]))


def spec_of(task, tokenizer, records, **config):
    parts = TABLE.load(task)
    settings = parts.infer_labels(parts.config_class(**config), records)
    return TaskSpec(settings, 64, tokenizer.vocab, "encoder", tokenizer=tokenizer)


def perfect_logits(items, spec):
    logits = np.full((len(items), 64, len(spec.config.labels)), -10.0, np.float32)
    for row, item in enumerate(items):
        example = TAGS.example(np.random.default_rng(0), item, spec)
        for position in np.flatnonzero(example["label_weights"]):
            logits[row, position, example["label"][position]] = 10
    return logits


def test_characters_that_share_an_id_have_tags_of_their_own(tokenizer):
    scores = {}
    for encoding in ("joined", "auto"):
        spec = spec_of("token_classification", tokenizer, CHARACTERS, joiner="", encoding=encoding)
        items = TAGS.prepare(CHARACTERS, tokenizer, spec)
        answers = TAGS.predictions({"logits": perfect_logits(items, spec)}, items, spec)
        scores[encoding] = TAGS.score(answers, CHARACTERS, spec).figures["f1"]
        assert TAGS.ceiling(items, CHARACTERS, spec).figures["f1"] == scores[encoding]
    assert scores["auto"] == 1.0
    # As runs of before did it: the last character of an id wins, and no model can be right.
    assert scores["joined"] < 0.5


def test_tokens_with_a_joiner_are_one_text(tokenizer):
    records = small.records_of({"tokens": ["the", "café"], "tags": ["O", "B-X"]})
    ids = {}
    for encoding in ("joined", "auto", "separate"):
        spec = spec_of("token_classification", tokenizer, records, encoding=encoding)
        (item,) = TAGS.prepare(records, tokenizer, spec)
        ids[encoding] = item.texts[0].tolist()
        assert item.label[item.positions].tolist() == [1, 0]
        assert TAGS.ceiling([item], records, spec).figures["f1"] == 1.0
    assert ids["joined"] == ids["auto"] == tokenizer.encode("the café")


def test_a_space_that_the_tokenizer_adds_is_no_token(tokenizer):
    records = small.records_of({"tokens": ["김", " ", "산"], "tags": ["B-X", "O", "O"]})
    spec = spec_of("token_classification", tokenizer, records, joiner="")
    (item,) = TAGS.prepare(records, tokenizer, spec)
    pieces = [
        tokenizer.piece_bytes(int(item.texts[0][position])).decode().strip() for position in item.positions
    ]
    assert pieces == ["김", "", "산"]


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize(
    ("context", "answer"), [(SENTENCES[0], "부산에서"), (SENTENCES[2], "café"), (SENTENCES[1], "살았다")]
)
def test_answers_are_pieces_of_decomposed_text_too(form, context, answer, tokenizer):
    context, answer = (unicodedata.normalize(form, text) for text in (context, answer))
    values = {"context": context, "question": "?", "answers": [answer], "starts": [context.index(answer)]}
    record = Record("r", values)
    spec = spec_of("question_answering", tokenizer, [record])
    (window,) = ANSWERS.prepare([record], tokenizer, spec)
    start, _ = context_range(window, spec)
    logits = np.full((1, 64, 2), -10.0)
    logits[0, start + window.label[0], 0] = logits[0, start + window.label[1], 1] = 10
    (prediction,) = ANSWERS.predictions({"logits": logits}, [window], spec)
    assert prediction["answer"] == answer and prediction["start"] == context.index(answer)
    assert ANSWERS.ceiling([window], [record], spec).figures["exact_match"] == 1.0


def test_an_answer_longer_than_is_allowed_lowers_the_ceiling():
    values = {"context": "abcdef", "question": "?", "answers": ["bcde"], "starts": [1]}
    records = [Record("r", values), Record("n", {**values, "answers": [], "starts": []})]
    for limit, exact in ((4, 1.0), (2, 0.5)):
        spec = small.spec_of("question_answering", "encoder", records, max_answer_tokens=limit)
        items = ANSWERS.prepare(records, small.TOKENIZER, spec)
        assert ANSWERS.ceiling(items, records, spec).figures["exact_match"] == exact


def test_tasks_without_spans_have_no_ceiling():
    records = small.records_of({"text": "t", "label": "a"}, {"text": "t", "label": "b"})
    spec = small.spec_of("classification", "encoder", records)
    items = TABLE.load("classification").prepare(records, small.TOKENIZER, spec)
    assert TABLE.load("classification").ceiling(items, records, spec) is None
