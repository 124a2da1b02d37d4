"""Labels and tags as people bring them: missing ones, numbers in two spellings, Hugging Face's indices."""

import math

import numpy as np
import pytest

from tests.tasks import small
from tlx.base.errors import ConfigError, DataError
from tlx.tasks import TABLE
from tlx.tasks.classification import Classification
from tlx.tasks.shared.labels import class_of, index_of_name, names_of
from tlx.tasks.token_classification import TokenClassification

TASK = TABLE.load("classification")


def labelled(*labels):
    return small.records_of(*({"text": "t", "label": label} for label in labels))


def usable(records, **config):
    """Labels of the records that the task can use."""
    config = Classification(**config)
    good = []
    for record in records:
        try:
            TASK.check_record(config, record)
        except DataError as error:
            assert record.where in str(error)
        else:
            good.append(record)
    return good


@pytest.mark.parametrize("missing", ["", " ", None, math.nan, "nan", "NaN"])
def test_a_missing_label_is_no_class(missing):
    records = labelled("pos", missing, "neg")
    with pytest.raises(DataError, match=r"file:2 has no label: 'label' is .*on_bad_record = 'skip'"):
        TASK.check_record(Classification(), records[1])
    assert names_of(usable(records), "label") == ("neg", "pos")
    if missing is not None and str(missing).strip() == missing:
        # A class that is named is one.
        named = usable(records, labels=(missing, "neg", "pos"))
        assert [class_of(record, "label", (missing, "neg", "pos")) for record in named] == [2, 0, 1]


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (("1", "1.0", "0"), ("0", "1")),
        ((1, 1.0, 0), ("0", "1")),
        ((1.0, 0.0), ("0.0", "1.0")),  # one spelling: as it is
        (("01", "1"), ("01", "1")),  # codes, not numbers
        ((-1, 1), ("-1", "1")),
        ((10, 2, "1"), ("1", "2", "10")),
        ((True, False), ("False", "True")),
        (("favor", "none"), ("favor", "none")),
    ],
)
def test_whole_numbers_are_one_label_in_every_spelling(labels, names):
    records = labelled(*labels)
    assert names_of(records, "label") == names
    assert len({class_of(record, "label", names) for record in records}) == len(names)


def test_minus_one_beside_other_numbers_is_asked_for():
    records = labelled(0, 1, -1, 1)
    with pytest.raises(ConfigError, match=r"-1 may be a class.*labels = \('-1', '0', '1'\) or \('0', '1'\)"):
        names_of(records, "label")
    assert len(usable(records, labels=("-1", "0", "1"))) == 4
    assert len(usable(records, labels=("0", "1"))) == 3
    with pytest.raises(
        DataError, match=r"label = '-1' is not one of: 0, 1.* \(-1 marks records without a label"
    ):
        TASK.check_record(Classification(labels=("0", "1")), records[2])


@pytest.mark.parametrize(
    ("label", "names", "index"),
    [
        ("1", ("neg", "pos"), 1),
        ("1.0", ("neg", "pos"), 1),
        ("2", ("neg", "pos"), None),
        ("-1", ("neg", "pos"), None),
        ("1", ("1", "0"), 0),  # names that are numbers are names
        ("1.0", ("1", "0"), 0),
        ("1", ("1.0", "1"), 1),
        ("5", ("0", "neg"), None),
        ("neg", ("neg", "pos"), 0),
    ],
)
def test_numbers_are_indices_of_given_names(label, names, index):
    assert index_of_name(label, names) == index


def test_sets_of_labels():
    config = {"multi_label": True, "labels": ("x", "y")}
    good = [["x", "y"], [], "", "x, y", [0, 1]]
    assert len(usable(labelled(*good), **config)) == len(good)
    assert not usable(labelled(None, math.nan, "nan", ["z"], ["\ud800"]), **config)


def test_a_text_that_is_not_usable():
    for text in (None, 3, "\ud83d bad"):
        record = small.records_of({"text": text, "label": "a"})[0]
        with pytest.raises(DataError, match="file:1"):
            TASK.check_record(Classification(), record)
        with pytest.raises(DataError, match="file:1"):
            TASK.prepare(
                [record], small.TOKENIZER, small.spec_of("classification", "encoder", [], labels=("a", "b"))
            )


TAGS = TABLE.load("token_classification")
NAMES = ("O", "B-PER", "I-PER")


def test_tags_that_are_indices():
    records = small.records_of(
        {"tokens": ["Kim", "Min", "ate"], "tags": [1, 2, 0]}, {"tokens": ["Lee"], "tags": ["B-PER"]}
    )
    spec = small.spec_of("token_classification", "encoder", records, labels=NAMES)
    first, second = TAGS.prepare(records, small.TOKENIZER, spec)
    np.testing.assert_array_equal(first.label[first.positions], [1, 2, 0])
    answers = [{"tags": ["B-PER", "I-PER", "O"]}, {"tags": ["B-PER"]}]
    assert TAGS.score(answers, records, spec).figures["f1"] == 1.0
    with pytest.raises(ConfigError, match=r"'tags' has numbers; give their names in order.*objective.labels"):
        small.spec_of("token_classification", "encoder", records)
    for tags in ([3, 0, 0], [-100, 0, 0], [1, 0], [None, 0, 0], ["X", "O", "O"]):
        record = small.records_of({"tokens": ["a", "b", "c"], "tags": tags})[0]
        with pytest.raises(DataError, match="file:1"):
            TAGS.check_record(TokenClassification(labels=NAMES), record)
