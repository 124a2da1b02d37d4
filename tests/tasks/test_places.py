"""Tags of tokens, spans of answers, and choices, for each shape."""

import dataclasses

import jax
import numpy as np
import pytest

from tests.tasks import small
from tlx.base.errors import ConfigError, DataError
from tlx.tasks import TABLE
from tlx.tasks.question_answering import QuestionAnswering, context_range, final_answer, max_context
from tlx.tasks.shared.spans import windows

TAGGED = small.records_of(
    {"tokens": ["Kim", "ate", "a"], "tags": ["B-P", "O", "O"]},
    {"tokens": ["a", "very", "long", "sentence", "by", "Lee", "Min"], "tags": ["O"] * 5 + ["B-P", "I-P"]},
    {"tokens": [], "tags": []},
)
CONTEXT = "Käse is made of milk, and 고양이 like it very much."
ASKED = small.records_of(
    {"context": CONTEXT, "question": "who", "answers": ["고양이", "x"], "starts": [26, 0]},
    {"context": CONTEXT, "question": "why", "answers": [], "starts": []},
    {"context": "ab", "question": "a question that is cut", "answers": ["b"], "starts": [1]},
)
CHOSEN = small.records_of(
    {"context": "it rained", "q": "so", "1": "wet", "2": "dry", "label": 1},
    {"context": "sun", "q": "so", "1": "wet", "2": "very dry indeed", "label": 2},
)


def made(task, shape, records, **config):
    spec = small.spec_of(task, shape, records, **config)
    return spec, TABLE.load(task).prepare(records, small.TOKENIZER, spec)


def batch_of(task, spec, items):
    rows = [TABLE.load(task).example(np.random.default_rng(0), item, spec) for item in items]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def tokens_of(batch):
    return batch["decoder_tokens" if "decoder_tokens" in batch else "tokens"]


def test_windows():
    assert windows(10, 4, 2) == [(0, 4), (2, 6), (4, 8), (6, 10)]
    assert (
        windows(4, 4, 2) == [(0, 4)] and windows(0, 4, 2) == [(0, 0)] and windows(5, 4, 4) == [(0, 4), (4, 5)]
    )


@pytest.mark.parametrize("shape", small.READ_SHAPES)
def test_tags_stand_at_the_first_id_of_their_token(shape):
    spec, pieces = made("token_classification", shape, TAGGED)
    assert spec.config.labels == ("B-P", "I-P", "O")
    batch = batch_of("token_classification", spec, pieces)
    seen: dict[int, list] = {}
    for row, piece in enumerate(pieces):
        places = np.flatnonzero(batch["label_weights"][row])
        for token, place in zip(piece.tokens, places, strict=True):
            first = TAGGED[piece.record].values["tokens"][token]
            assert tokens_of(batch)[row, place] == small.TOKENIZER.encode(first)[0]
            tag = spec.config.labels[batch["label"][row, place]]
            seen.setdefault(piece.record, []).append((int(token), tag))
    for number, record in enumerate(TAGGED[:2]):
        assert seen[number] == list(enumerate(record.values["tags"]))  # each once, over all pieces


@pytest.mark.parametrize("shape", small.READ_SHAPES)
def test_perfect_tags_score_one(shape):
    spec, pieces = made("token_classification", shape, TAGGED)
    batch = batch_of("token_classification", spec, pieces)
    logits = np.eye(3)[batch["label"]] + 0.1 * (batch["label_weights"] == 0)[..., None]
    task = TABLE.load("token_classification")
    answers = task.predictions({"logits": logits}, pieces, spec)
    assert [answer["tags"] for answer in answers] == [record.values["tags"] for record in TAGGED]
    scores = task.score(answers, TAGGED, spec)
    assert scores.main == "f1" and scores.figures["f1"] == scores.figures["token_accuracy"] == 1.0
    assert scores.statistic(np.array([0, 1])) == 1.0
    answers[1]["tags"][6] = "O"
    assert task.score(answers, TAGGED, spec).figures["f1"] == pytest.approx(0.5)


def test_tags_of_characters():
    records = small.records_of({"tokens": ["김", " ", "b"], "tags": ["B-P", "O", "O"]})
    spec, (piece,) = made("token_classification", "encoder", records, joiner="")
    np.testing.assert_array_equal(piece.positions, [0, 3, 4])  # three bytes of 김
    np.testing.assert_array_equal(piece.label, [0, -1, -1, 1, 1])


@pytest.mark.parametrize("shape", small.READ_SHAPES)
def test_windows_give_back_the_context_at_every_offset(shape):
    """Whatever the span of ids, its characters are those that the ids stand for."""
    spec, items = made("question_answering", shape, ASKED, stride=3, max_question_tokens=4)
    for item in items:
        if item.text != CONTEXT:
            continue
        for i in range(len(item.spans)):
            for j in range(i, len(item.spans)):
                start, stop = item.spans[i, 0], item.spans[j, 1]
                ids = item.texts[1][i : j + 1]
                inside = small.TOKENIZER.decode(ids).strip("\ufffd")
                assert inside in item.text[start:stop]
    assert {item.record for item in items} == {0, 1, 2}


@pytest.mark.parametrize("shape", small.READ_SHAPES)
def test_perfect_logits_answer_every_question(shape):
    # In windows of so few bytes the one with the most context of an answer's start may lack its end.
    settings = {"stride": 3, "max_question_tokens": 3, "no_answer": True, "max_context": False}
    spec, items = made("question_answering", shape, ASKED, **settings)
    batch = batch_of("question_answering", spec, items)
    logits = np.repeat(np.where(batch["allowed"] > 0, 0.0, -1e9)[..., None], 2, axis=2)
    labelled = [item for item in items if item.record == 0 and item.label != (-1, -1)]
    assert 1 <= len(labelled) < sum(item.record == 0 for item in items)  # of nine bytes
    for row, item in enumerate(items):
        begins, ends = batch["label"][row]
        assert (begins == batch["place"][row]) == (item.label == (-1, -1))
        logits[row, begins, 0] = logits[row, ends, 1] = 10.0
    task = TABLE.load("question_answering")
    answers = task.predictions({"logits": logits}, items, spec)
    assert [answer["answer"] for answer in answers] == ["고양이", "", "b"]
    assert CONTEXT[answers[0]["start"] :].startswith("고양이") and answers[1]["start"] == -1
    scores = task.score(answers, ASKED, spec)
    assert scores.main == "f1" and scores.figures["f1"] == scores.figures["no_answer"] == 1.0


def max_context_by_hand(pieces):
    """_check_is_max_context of BERT's run_squad.py, for each id of each window."""
    found = []
    for number, (start, stop) in enumerate(pieces):
        row = []
        for at in range(start, stop):
            best_score, best = None, None
            for other, (begin, end) in enumerate(pieces):
                if begin <= at < end:
                    score = min(at - begin, end - 1 - at) + 0.01 * (end - begin)
                    if best_score is None or score > best_score:
                        best_score, best = score, other
            row.append(best == number)
        found.append(row)
    return found


@pytest.mark.parametrize(
    "length, size, stride", [(5, 8, 3), (40, 8, 3), (41, 16, 16), (100, 32, 7), (0, 8, 3)]
)
def test_every_id_has_the_most_context_in_one_window(length, size, stride):
    pieces = list(windows(length, size, stride))
    found = [row.tolist() for row in max_context(pieces)]
    assert found == max_context_by_hand(pieces)
    assert sum(map(sum, found)) == length


def test_an_answer_begins_where_it_has_the_most_context():
    """The best logit of all lies at the edge of a window, where an answer may not begin unless told otherwise."""
    for allowed in (True, False):
        spec, items = made("question_answering", "encoder", ASKED[:1], stride=3, max_context=allowed)
        first = items[0]
        edge = len(first.texts[1]) - 1
        assert len(items) > 1 and not first.max_context[edge]
        batch = batch_of("question_answering", spec, items)
        logits = np.repeat(np.where(batch["allowed"] > 0, 0.0, -1e9)[..., None], 2, axis=2)
        start, _ = context_range(first, spec)
        logits[0, start + edge] = 10.0
        (answer,) = TABLE.load("question_answering").predictions({"logits": logits}, items, spec)
        assert (answer["score"] == 20.0) == (not allowed)


def test_there_is_no_answer_where_that_scores_more_than_the_answer_plus_the_threshold():
    """score_diff > null_score_diff_threshold, as BERT's script has it: a higher threshold, more answers."""
    answers = {}
    for threshold in (-3.0, -1.0, 1.0, 3.0):
        config = QuestionAnswering(no_answer=True, null_score_diff_threshold=threshold)
        found = {"answer": "a", "start": 0, "score": 1.0, "no_answer_score": 3.0}
        answers[threshold] = final_answer(found, config)["answer"]
    assert answers == {-3.0: "", -1.0: "", 1.0: "", 3.0: "a"}


def test_the_best_thresholds_are_exact_as_they_are_printed():
    task = TABLE.load("question_answering")
    rng = np.random.default_rng(0)
    records = small.records_of(*({"answers": ["x"] if number % 3 else []} for number in range(30)))
    found = [
        {"answer": "xy"[number % 2], "start": 0, "score": score, "no_answer_score": none}
        for number, (score, none) in enumerate(rng.normal(size=(30, 2)).tolist())
    ]

    def figures(threshold):
        spec, _ = made("question_answering", "encoder", ASKED[:1], no_answer=True)
        config = dataclasses.replace(spec.config, null_score_diff_threshold=threshold)
        predictions = [final_answer(prediction, config) for prediction in found]
        return task.score(predictions, records, dataclasses.replace(spec, config=config)).figures

    best = figures(0.0)
    for name in ("f1", "exact_match"):
        threshold = float(f"{best[f'best_{name}_threshold']:.4f}")
        assert figures(threshold)[name] == pytest.approx(best[f"best_{name}"])
        assert figures(threshold - 0.0001)[name] < best[f"best_{name}"]
    config = QuestionAnswering(null_score_diff_threshold=1.0)
    with pytest.raises(
        ConfigError, match="null_score_diff_threshold = 1.0 is for objective.no_answer = True"
    ):
        task.infer_labels(config, records)


def test_answers_that_are_misplaced():
    wrong = small.records_of({"context": "ab ab", "question": "", "answers": ["ab"], "starts": [4]})
    _, (item,) = made("question_answering", "encoder", wrong)
    assert item.label == (3, 4)  # the nearest
    nowhere = small.records_of({"context": "ab", "question": "", "answers": ["x"], "starts": [0]})
    with pytest.raises(DataError, match=r"file:1: the answer 'x' does not stand at character 0.*misplaced"):
        made("question_answering", "encoder", nowhere)
    spec, items = made("question_answering", "encoder", nowhere, misplaced="skip")
    assert batch_of("question_answering", spec, items)["weights"].tolist() == [0.0]


@pytest.mark.parametrize("shape", small.READ_SHAPES)
def test_choices_are_rows(shape):
    settings = {"context": ("context", "q"), "choices": ("1", "2")}
    spec, items = made("multiple_choice", shape, CHOSEN, **settings)
    assert spec.config.labels == ("1", "2")
    batch = batch_of("multiple_choice", spec, items)
    assert tokens_of(batch).shape == (2, 2, small.LENGTH) and batch["label"].tolist() == [0, 1]
    task = TABLE.load("multiple_choice")
    answers = task.predictions({"logits": np.array([[2.0, 1], [3.0, 1]])}, items, spec)
    assert [answer["label"] for answer in answers] == ["1", "1"]
    assert task.score(answers, CHOSEN, spec).figures == {"accuracy": 0.5}


@pytest.mark.parametrize(
    ("task", "records", "config"),
    [
        ("token_classification", TAGGED, {}),
        ("question_answering", ASKED, {"max_question_tokens": 3, "stride": 5}),
        ("multiple_choice", CHOSEN, {"context": ("context",), "choices": ("1", "2")}),
    ],
)
@pytest.mark.parametrize("shape", ["encoder", pytest.param("decoder", marks=pytest.mark.slow)])
def test_modules(task, records, config, shape):
    """Losses by hand, and nothing that is padding counts."""
    spec, items = made(task, shape, records, **config)
    batch = batch_of(task, spec, items)
    module = small.module_of(task, shape, spec.config)
    params = small.init(module, batch)
    terms, outputs = small.evaluated(module, params, batch)
    logits = np.asarray(outputs["logits"], np.float64)
    log_p = np.asarray(jax.nn.log_softmax(logits))
    if task == "token_classification":
        chosen = np.take_along_axis(log_p, batch["label"][..., None], -1)[..., 0]
        expected, weight = -(chosen * batch["label_weights"]).sum(), batch["label_weights"].sum()
    elif task == "multiple_choice":
        expected, weight = -log_p[[0, 1], batch["label"]].sum(), 2
    else:
        rows, weight = np.arange(len(items)), len(items)
        log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        expected = -sum(log_p[rows, batch["label"][:, side], side].sum() for side in (0, 1)) / 2
    assert float(terms["loss"].weight) == weight
    assert float(terms["loss"].sum) == pytest.approx(expected, rel=1e-4)
    none, _ = small.evaluated(module, params, small.replaced(batch, weights=np.zeros_like(batch["weights"])))
    assert float(none["loss"].weight) == 0 == float(none["loss"].sum)


QUESTION = {"context": "a", "question": "b", "answers": [], "starts": []}
CHOICE = {"context": "a", "choice1": "b", "choice2": "c", "label": "x"}


@pytest.mark.parametrize(
    ("task", "values", "config", "error", "message"),
    [
        ("token_classification", {"tokens": ["a"], "tags": ["O", "O"]}, {}, DataError, "1 tokens and 2"),
        ("token_classification", {"tokens": "ab", "tags": ["O"]}, {}, DataError, "'tokens' must be a list"),
        ("token_classification", {"tokens": ["a"], "tags": ["X"]}, {"labels": ("O",)}, DataError, "= 'X'"),
        ("question_answering", QUESTION | {"answers": "a"}, {}, DataError, "must be lists of one length"),
        ("question_answering", QUESTION | {"question": "b" * 20}, {}, ConfigError, "no room for a context"),
        ("multiple_choice", CHOICE, {"labels": ("1", "2")}, DataError, "label = 'x'"),
        ("multiple_choice", CHOICE, {"labels": ("1", "2", "3")}, ConfigError, "stand for the 2 choices"),
    ],
)
def test_records_that_do_not_fit(task, values, config, error, message):
    records = small.records_of(values)
    with pytest.raises(error, match=message):
        spec = small.spec_of(task, "encoder", records, **config)
        spec.config.validate()
        TABLE.load(task).prepare(records, small.TOKENIZER, spec)
