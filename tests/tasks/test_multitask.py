"""Several tasks in one run: how often each comes by, how each is asked, and what each scores."""

import dataclasses
import pickle

import numpy as np
import pytest

from tests.tasks import small
from tlx.base.errors import ConfigError, DataError
from tlx.data.config import DataConfig
from tlx.data.readers import Record, RecordsConfig, RecordSet
from tlx.data.records import RecordPipeline, read_records
from tlx.tasks import TABLE
from tlx.tasks.multitask import Multitask, MultitaskTask, TaskComponent
from tlx.tasks.shared.base import Item, TaskSpec

TASK, V = TABLE.load("multitask"), small.TOKENIZER.vocab
CONFIG = Multitask(
    target_length=6,
    parts=(
        TaskComponent(
            name="sort",
            source="sort: {text}",
            target="{label}",
            label_words=(("0", "no"),),
            metrics=("accuracy",),
        ),
        TaskComponent(name="say", source="say: {q}", target="{a}", metrics=("chrf", "exact_match")),
    ),
)
RECORDS = [
    Record("f:1", {"text": "ab", "label": 0}, "sort"),
    Record("g:1", {"q": "c", "a": "de"}, "say"),
    Record("f:2", {"text": "x", "label": "0"}, "sort"),
]
SPEC = TaskSpec(CONFIG, 24, V, "decoder", tokenizer=small.TOKENIZER)


def test_each_is_asked_its_own_way():
    items = TASK.prepare(RECORDS, small.TOKENIZER, SPEC)
    said = [small.TOKENIZER.decode(item.source) for item in items]
    assert said == ["sort: ab", "say: c", "sort: x"]
    assert [small.TOKENIZER.decode(item.targets[0]) for item in items] == ["no", "de", "no"]
    asked = [Record("r", {"task": "say", "q": "f"})]
    (item,) = TASK.prepare(asked, small.TOKENIZER, SPEC, labelled=False)
    assert small.TOKENIZER.decode(item.source) == "say: f" and item.targets == ()


def test_scores_of_each_and_their_mean():
    answers = [{"answer": text} for text in ("no", "dx", "yes")]
    scores = TASK.score(answers, RECORDS, SPEC)
    alone = TABLE.load("generation").score(
        answers[1:2], RECORDS[1:2], dataclasses.replace(SPEC, config=CONFIG.parts[1])
    )
    assert scores.figures["sort.accuracy"] == 0.5 and scores.figures["say.exact_match"] == 0
    assert scores.figures["say.chrf"] == alone.figures["chrf"] > 0
    assert scores.figures["mean"] == pytest.approx((0.5 + alone.figures["chrf"] / 100) / 2)
    assert scores.statistic(np.array([0, 0, 2])) == pytest.approx(2 / 3)  # none of "say"
    assert TASK.score(answers[:1], RECORDS[:1], SPEC).figures["mean"] == 1.0


def pipeline(sizes, batch_size=8, seed=0, **records):
    """Rows that say which item of which set they are."""
    rows, items = [], []
    for name, size in enumerate(sizes):
        rows += [Record(f"{name}:{i}", {}, str(name)) for i in range(size)]
        items += [Item((np.array([name, i]),), None) for i in range(size)]
    items = [item._replace(record=number) for number, item in enumerate(items)]
    task = ShownTask()
    data = DataConfig(records=RecordsConfig(**records))
    return RecordPipeline(data, rows, items, task, SPEC, batch_size, seed, "train")


class ShownTask(MultitaskTask):
    """Shows which item a row is made of."""

    def empty_item(self, spec):
        return Item((np.zeros(2, int),), None)

    def example(self, rng, item, spec):
        return {"which": item.texts[0], "draw": rng.integers(1 << 30), "weights": np.float32(1)}


@pytest.mark.parametrize(
    ("records", "powers"),
    [
        ({}, (40, 400, 4000)),
        ({"temperature": 2.0}, (40**0.5, 20, 4000**0.5)),
        ({"temperature": 2.0, "max_set_size": 500}, (40**0.5, 20, 500**0.5)),
        ({"temperature": 1e9}, (1, 1, 1)),
    ],
)
def test_how_often_each_comes_by(records, powers):
    rows = pipeline((40, 400, 4000), batch_size=64, **records)
    seen = np.concatenate([rows.batch(k)["which"] for k in range(300)])
    shares = np.bincount(seen[:, 0], minlength=3) / len(seen)
    np.testing.assert_allclose(shares, np.array(powers) / np.sum(powers), atol=2e-4)
    for name, size in enumerate((40, 400, 4000)):  # each as often as another of its set
        counts = np.bincount(seen[seen[:, 0] == name, 1], minlength=size)
        assert counts.max() - counts.min() <= 1


def test_batches_are_functions_of_their_number():
    one, other = (pipeline((5, 9), temperature=2.0) for _ in range(2))
    for k in (7, 2, 7):
        for name, array in one.batch(k).items():
            np.testing.assert_array_equal(array, other.batch(k)[name])
            np.testing.assert_array_equal(array[3:5], pickle.loads(pickle.dumps(one)).batch(k, [3, 4])[name])
    assert not np.array_equal(
        one.batch(0)["which"], pipeline((5, 9), seed=1, temperature=2.0).batch(0)["which"]
    )
    assert one.fingerprint != pipeline((5, 9)).fingerprint
    order = np.concatenate([batch["which"] for batch in one.epoch_batches()])[:14]
    assert order.tolist() == [[0, i] for i in range(5)] + [[1, i] for i in range(9)]


def test_sets_are_read_as_they_are_told(tmp_path):
    (tmp_path / "a.csv").write_text("x,y\n" + "1,2\n" * 20)
    (tmp_path / "b.jsonl").write_text('{"x": 1}\n' * 9)
    sets = (
        RecordSet(name="a", train=(str(tmp_path / "a.csv"),), limit=4),
        RecordSet(name="b", train=(str(tmp_path / "b.jsonl"),), test=(str(tmp_path / "b.jsonl"),)),
    )
    config = RecordsConfig(sets=sets)
    assert [record.set for record in read_records(config, "train", 0)][:5] == ["a"] * 4 + ["b"]
    assert {record.set for record in read_records(config, "test", 0)} == {"b"} and config.tested
    for changes, message in [
        ({"train": ("x",)}, "has files and sets"),
        ({"sets": (sets[0], sets[0])}, "each needs a unique name"),
        ({"sets": (RecordSet(name="c"),)}, r"data.records.sets\[0\].train is empty"),
        ({"temperature": 0.5}, "data.records.temperature = 0.5"),
    ]:
        with pytest.raises(ConfigError, match=message):
            dataclasses.replace(config, **changes).validate()
    with pytest.raises(DataError, match="no set of data.records.sets has test files"):
        read_records(RecordsConfig(sets=sets[:1]), "test", 0)


@pytest.mark.parametrize(
    ("record", "error", "message"),
    [
        (Record("f:1", {}, "srt"), ConfigError, "data.records.sets = 'srt' .*did you mean 'sort'"),
        (Record("r", {"task": "sya"}), DataError, "'task' = 'sya' .*did you mean 'say'"),
        (Record("f:3", {"q": ""}, "say"), DataError, r"objective.parts\[1\].target = 'a'"),
    ],
)
def test_records_of_no_task(record, error, message):
    with pytest.raises(error, match=message):
        TASK.prepare([record], small.TOKENIZER, SPEC)
