"""Prompts with examples before them, and answers by likelihood, with a reader whose likelihoods are known."""

import dataclasses
import json

import numpy as np
import pytest

from tlx.base.errors import ConfigError, DataError
from tlx.data.readers import Record, RecordsConfig
from tlx.evaluation.choices import TextScore
from tlx.evaluation.few_shot import BY, FewShot, FewShotConfig, FewShotData, evaluate_few_shot, question

HOW = FewShot(
    prompt="{q}\nA:", choices=(" no {q}", " yes"), instruction="Answer.\n", separator="\n--\n", shots=2
)
EXAMPLES = [Record(f"train:{i}", {"q": f"q{i}", "label": str(i % 2)}) for i in range(6)]
RECORD = Record("test:1", {"q": "is it", "label": "1"})


class Reader:
    """Likes nothing but what `likes` says; a token is a letter."""

    def __init__(self, likes=lambda prompt, choice: 0.0):
        self.likes, self.asked = likes, []

    def score_choices(self, prompts, choices):
        self.asked.append(list(prompts))
        return [
            [TextScore(self.likes(prompt, text), 0.0, len(text.split()), len(text)) for text in own]
            for prompt, own in zip(prompts, choices, strict=True)
        ]

    def num_tokens(self, prompt, choices):
        return len(prompt) + max(map(len, choices))


def ask(how=HOW, number=0, length=1000, examples=EXAMPLES, record=RECORD):
    return question(Reader(), how, record, examples, number, length)


def test_examples_stand_before_the_question_with_their_right_answers():
    found = ask()
    assert found.choices == (" no is it", " yes") and found.shots == 2
    first, second, last = found.prompt.removeprefix("Answer.\n").split("\n--\n")
    assert last == "is it\nA:"
    for shown in (first, second):
        number = int(shown[1])
        assert shown == f"q{number}\nA:" + (" yes" if number % 2 else f" no q{number}")
    assert first != second
    assert ask(dataclasses.replace(HOW, shots=0)).prompt == "Answer.\nis it\nA:"


def test_examples_depend_on_the_seed_and_the_number_alone():
    assert ask() == ask() and len({ask(number=n).prompt for n in range(9)}) > 4
    assert len({ask(dataclasses.replace(HOW, seed=s)).prompt for s in range(9)}) > 4
    one = ask(dataclasses.replace(HOW, shots=1))
    assert one.prompt.removeprefix("Answer.\n").split("\n--\n")[0] in ask().prompt
    for number in range(6):  # a record is no example of itself
        record = EXAMPLES[number]
        found = ask(dataclasses.replace(HOW, shots=5), record=record, number=number)
        assert found.shots == 5 and found.prompt.count(record.values["q"]) == 1


def test_what_does_not_fit_is_left_out_from_the_beginning():
    whole = ask()
    room = len(whole.prompt) + len(" no is it")
    assert ask(length=room) == whole
    less = ask(length=room - 1)
    assert less.shots == 1 and less.prompt.endswith(whole.prompt.split("\n--\n", 1)[1])
    none = ask(length=len("Answer.\nis it\nA:") + 9)
    assert none.shots == 0 and none.prompt == "Answer.\nis it\nA:"
    cut = ask(length=16)
    assert cut.prompt and "is it\nA:".endswith(cut.prompt)


@pytest.fixture
def config(tmp_path):
    rows = [{"q": f"t{i}", "label": i % 2} for i in range(5)]
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "train.jsonl").write_text("\n".join(json.dumps(dict(record.values)) for record in EXAMPLES))
    records = RecordsConfig(train=(str(tmp_path / "train.jsonl"),), test=(str(tmp_path / "test.jsonl"),))
    return FewShotConfig(HOW, FewShotData(records))


def likes(prompt, choice):
    """In total " yes" is ahead; over their length and beside nothing at all it is the other one."""
    if not prompt:
        return -1.0 if choice == " yes" else -9.0
    return -4.0 if choice == " yes" else -5.0


@pytest.mark.parametrize(
    ("by", "answer"), [("total", "1"), ("bytes", "0"), ("tokens", "0"), ("unconditional", "0")]
)
def test_choices_are_compared_as_the_config_says(by, answer, config):
    how = dataclasses.replace(HOW, normalization=by, instruction="", shots=1)
    found = evaluate_few_shot(Reader(likes), dataclasses.replace(config, objective=how), "test", 99)
    assert {line["label"] for line in found.answers} == {answer}
    share = 0.4 if answer == "1" else 0.6
    assert found.figures["accuracy"] == found.figures[f"accuracy_{by}"] == share
    assert found.figures["accuracy_total"] == 0.4 and found.figures["shots"] == 1
    assert found.scores.majority_baseline == 0.6 and found.scores.statistic(np.arange(5)) == share
    first = found.answers[0]
    assert first["choices"] == [" no t0", " yes"] and first["total"] == [-5.0, -4.0]
    assert first["unconditional"] == [4.0, -3.0] and first["tokens"] == [-2.5, -4.0]
    assert set(BY) | {"label", "prompt", "shots", "choices"} == set(first)


def test_a_text_that_says_nothing_is_scored_once(config):
    reader = Reader(likes)
    how = dataclasses.replace(HOW, unconditional_prompt="A:", limit=3)
    found = evaluate_few_shot(reader, dataclasses.replace(config, objective=how), "test", 99)
    assert reader.asked[0] == ["A:"] and len(reader.asked[1]) == len(found.records) == 3


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"choices": ("a",)}, ConfigError, "objective.choices = .*two or more"),
        ({"labels": ("a", "b", "c")}, ConfigError, "objective.labels = .* as many"),
        ({"normalization": "byte"}, ConfigError, "did you mean 'bytes'"),
        ({"shots": 7}, ConfigError, "shots = 7 are more than the 5|shots = 7 are more than the 6"),
        ({"labels": ("0", "2")}, DataError, "test.jsonl:2.*'1' is not one of: 0, 2"),
        ({"prompt": "{w}"}, DataError, "'w' is not one of"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_scored(changes, error, match, config):
    reader = Reader()
    wrong = dataclasses.replace(config, objective=dataclasses.replace(HOW, **changes))
    with pytest.raises(error, match=match):
        evaluate_few_shot(reader, wrong, "test", 99)
    assert reader.asked == []
