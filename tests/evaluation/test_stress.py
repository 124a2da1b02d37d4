"""Stress tests: what is changed in records, and the figures of a rule that is right for the wrong reason."""

import re

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from tests.tasks import small
from tlx.base.errors import ConfigError
from tlx.evaluation import perturbations, stress
from tlx.evaluation.perturbations import changed_records, exchange, only_column, typos
from tlx.evaluation.stress import Records, StressConfig
from tlx.metrics.detection import auroc, false_positive_rate
from tlx.tasks import TABLE

COLUMNS = (("premise", "objective.first"), ("hypothesis", "objective.second"))


def pairs(count: int, seed: int = 0):
    """Entailment whose hypotheses say "no" in four of five contradictions and never elsewhere."""
    rng = np.random.default_rng(seed)
    values = []
    for number in range(count):
        label = "contradiction" if number % 2 else "entailment"
        says_no = label == "contradiction" and rng.random() < 0.8
        hypothesis = "there are no people outside" if says_no else "there are people outside"
        premise = f"a crowd of {rng.integers(1000)} is standing"
        values.append({"premise": premise, "hypothesis": hypothesis, "label": label})
    return small.records_of(*values)


def test_typos_exchange_inner_neighbours_of_words():
    text = "The little children, Ünder 3 trees; see abc aaaa"
    for seed in range(50):
        typed = typos(0.3)(text, np.random.default_rng(seed))
        words, others = (re.findall(r"\w+", one) for one in (text, typed))
        differ = [(a, b) for a, b in zip(words, others, strict=True) if a != b]
        assert 1 <= len(differ) <= 4 and re.sub(r"\w", "", typed) == re.sub(r"\w", "", text)
        for a, b in differ:
            places = [i for i in range(len(a)) if a[i] != b[i]]
            i, j = places
            assert j == i + 1 and (a[i], a[j]) == (b[j], b[i]) and 0 < i and j < len(a) - 1
    assert typos(1.0)("a bee aaaa", np.random.default_rng(0)) == "a bee aaaa"


def test_words_are_exchanged_whole_with_their_capital():
    change = exchange((("is", "is not"), ("it is", "it's")), once=False)
    text = "This IS it: it is; Is island."
    assert change(text, None) == "This Is not it: it's; Is not island."
    assert exchange((("is", "is not"),), once=True)("He is. She is.", None) == "He is not. She is."
    negate = perturbations.negations(perturbations.NEGATIONS)
    assert negate("It was late and we were tired.", None) == "It was not late and we were tired."
    for negated in ("It was not late.", "Nobody can, it isn't.", "We were never late."):
        assert negate(negated, None) == negated


def test_only_changed_records_are_tested_and_record_by_record():
    records = small.records_of({"text": "ab"}, {"text": "wonderful"}, {"text": "terrible"})
    indices, changed = changed_records(records, (("text", "objective.text"),), typos(0.5), 3)
    assert indices == [1, 2] and records[1].values["text"] == "wonderful"
    first = changed_records(records[:2], (("text", "objective.text"),), typos(0.5), 3)[1]
    assert first[0].values == changed[0].values
    blank = only_column(pairs(2), COLUMNS, "hypothesis")
    assert all(record.values["premise"] == "" and record.values["hypothesis"] for record in blank)


def test_detection_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    inside, outside = np.round(rng.beta(5, 2, 200), 2), np.round(rng.beta(3, 3, 150), 2)
    labels = np.repeat([1, 0], [200, 150])
    scores = np.concatenate([inside, outside])
    assert auroc(inside, outside) == pytest.approx(roc_auc_score(labels, scores))
    false, true, _ = roc_curve(labels, scores, drop_intermediate=False)
    assert false_positive_rate(inside, outside) == pytest.approx(false[true >= 0.95].min())
    with pytest.raises(ValueError, match="both kinds"):
        auroc(inside, outside[:0])


def by_hypothesis(records, labelled=True):
    """A model that looks for "no" in the hypothesis, and is less sure of texts with digits."""
    del labelled
    found = []
    for record in records:
        says_no = re.search(r"\b(no|not)\b", record.values["hypothesis"]) is not None
        sure = 0.6 if re.search("[A-Z]", record.values["premise"]) else 0.9
        found.append({"label": "contradiction" if says_no else "entailment", "probability": sure})
    return found


def test_a_rule_of_the_hypothesis_alone_is_found_out():
    task = TABLE.load("pair_classification")
    config = task.config_class(labels=("contradiction", "entailment"))
    evaluated = pairs(100, seed=1)
    values = evaluated[1].values
    sets = [
        {**values, "set": number, "label": label, "hypothesis": text}
        for number in range(4)
        for label, text in (("contradiction", f"there are {number % 2 * 'no'} dogs"), ("entailment", "dogs"))
    ]
    others = small.records_of(*({"premise": "ABC", "hypothesis": "no"} for _ in range(30)))
    records = Records(pairs(200), evaluated, small.records_of(*sets), others, {"list": others[:5]})
    rows = stress.stress(by_hypothesis, task, config, records, StressConfig())
    found = {(row.test, row.figure): row.value.value for row in rows}
    right = np.mean(
        [a["label"] == r.values["label"] for a, r in zip(by_hypothesis(evaluated), evaluated, strict=True)]
    )
    assert found["as they are", "accuracy"] == right > 0.85 and found["majority", "accuracy"] == 0.5
    # One text is enough, and it is the second one: no figure of the whole shows that.
    assert found["partial: hypothesis alone", "accuracy"] == right
    assert found["blanked: all but hypothesis", "accuracy"] == right
    assert found["partial: premise alone", "accuracy"] < 0.65
    assert found["blanked: all but premise", "accuracy"] == 0.5
    assert found["typos", "unchanged"] == 1.0 and found["typos: after", "accuracy"] == right
    positive = [record for record in evaluated if " no " not in record.values["hypothesis"]]
    row = next(row for row in rows if row.test == "negation")
    assert row.records == len(positive) and row.value == (1.0, 1.0, 1.0) and row.figure == "changed"
    assert found["contrast", "accuracy"] == 0.75 and found["contrast", "all of a set right"] == 0.5
    assert found["outside", "auroc"] == 1.0 and found["outside", "fpr at 95% recall"] == 0.0
    assert found["harmful: list", "label contradiction"] == 1.0
    assert all(row.value.low <= row.value.value <= row.value.high for row in rows)
    text = stress.table(rows)
    assert text.count("\n") == len(rows) + 1 and "| negation | changed |" in text


@pytest.mark.parametrize(
    "change, message",
    [({"typo_fraction": 0.0}, "typo_fraction = 0.0"), ({"negations": (("is",),)}, "negations must be pairs")],
)
def test_wrong_settings_are_named(change, message):
    with pytest.raises(ConfigError, match=message):
        StressConfig(**change).validate()
    with pytest.raises(ConfigError, match="--stress is for tasks of one class"):
        stress.check(TABLE.load("similarity").config_class())
