"""Records and texts of any shape: read unchanged, skipped and counted, or one message of what is wrong.

pytest -m slow tests/data/test_fuzzed_records.py
"""

import csv
import io
import json
import math
import pathlib
import tempfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from tests.fuzzing import fuzzed
from tests.tasks import small
from tlx.base.errors import UserError
from tlx.data.bad_records import BadRecordPolicy, is_invisible, surrogate_in
from tlx.data.config import DataConfig, SourceConfig, TextConfig
from tlx.data.readers import RecordsConfig
from tlx.data.records import build_records, read_records
from tlx.data.sources import open_source
from tlx.data.tokenize import SkippedRecords, documents
from tlx.tasks import TABLE

pytestmark = pytest.mark.slow

FUZZ = fuzzed(300, suppressed=(HealthCheck.too_slow,))
ODD = [
    "\ufeff",
    "\0",
    "e\u0301",
    "\u1107\u116e",
    "\ud83d",
    "\u200b",
    "\r",
    "\n",
    "\r\n",
    "\t",
    '"',
    ",",
    "{",
    "\\",
    "👋",
]
TEXTS = st.lists(st.sampled_from([*ODD, "a", "b c", " "]), max_size=6).map("".join)
NUMBERS = st.sampled_from([-1, 0, 1, 1.0, math.nan, math.inf, 10**30, True, False])
LABELS = st.one_of(st.sampled_from(["pos", "neg", "", "nan", "1", "1.0", "-1", None]), NUMBERS, TEXTS)
VALUES = st.recursive(
    st.one_of(st.none(), NUMBERS, TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=2)),
    max_leaves=6,
)
ACTIONS = st.sampled_from(["error", "skip", "keep"])


class Folder:
    """A file of one input, gone when it was read."""

    def __init__(self, name, content):
        self._folder = tempfile.TemporaryDirectory()
        self.path = str(pathlib.Path(self._folder.name, name))
        pathlib.Path(self.path).write_bytes(content)

    def __enter__(self):
        return self.path

    def __exit__(self, *error):
        self._folder.cleanup()


def one_message(error):
    assert str(error) and "Traceback" not in str(error) and len(str(error)) < 2000


def is_good(row):
    """Whether a row of text and label can be used, by rules that do not come from the code."""
    text, label = row
    if not isinstance(text, str) or surrogate_in(text) or label is None or surrogate_in(str(label)):
        return False
    return str(label).strip() not in ("", "nan", "NaN")


def as_csv(rows, end):
    buffer = io.StringIO(newline="")
    csv.writer(buffer, lineterminator=end, quoting=csv.QUOTE_ALL).writerows([("text", "label"), *rows])
    return buffer.getvalue().encode("utf-8", "surrogatepass")


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_labelled_texts_are_read_unchanged(kind):
    @fuzzed(200 if kind == "jsonl" else 100, suppressed=(HealthCheck.too_slow,))
    @given(
        rows=st.lists(st.tuples(TEXTS, LABELS), max_size=8),
        action=ACTIONS,
        bom=st.booleans(),
        end=st.sampled_from(["\n", "\r\n"]),
    )
    def check(rows, action, bom, end):
        if kind == "csv":
            rows = [(text, "" if label is None else str(label)) for text, label in rows]
            content = as_csv(rows, end)
        else:
            content = end.join(json.dumps({"text": text, "label": label}) for text, label in rows).encode()
        good = [row for row in rows if is_good(row)]
        with Folder(f"a.{kind}", b"\xef\xbb\xbf" * bom + content) as path:
            records = RecordsConfig(train=(path,), validation=(path,))
            task = TABLE.load("classification")
            config = task.config_class()
            policy = BadRecordPolicy(action)
            try:
                read = read_records(
                    records, "train", 0, policy, lambda record: task.check_record(config, record)
                )
                values = [(record.values["text"], record.values["label"]) for record in read]
                if action == "keep":
                    assert repr(values) == repr(rows)
                else:
                    assert repr(values) == repr(good)
                    assert action == "skip" or len(good) == len(rows)
                spec = small.spec_of("classification", "encoder", read)
                data = DataConfig(records=records, on_bad_record=action)
                pipeline = build_records(data, small.TOKENIZER, task, spec, batch_size=2, seed=0)
                for item, record in zip(pipeline.items, pipeline.records, strict=True):
                    ids = item.texts[0]
                    assert small.TOKENIZER.decode(ids) == record.values["text"]
            except UserError as error:
                one_message(error)

    check()


@FUZZ
@given(
    name=st.sampled_from(["a.txt", "a.jsonl", "a.tsv"]),
    texts=st.lists(TEXTS, max_size=5),
    text=st.fixed_dictionaries(
        {
            "one_document_per_line": st.booleans(),
            "hold_out": st.sampled_from(["stretches", "documents"]),
            "clean": st.booleans(),
            "validation_fraction": st.sampled_from([0.05, 0.5]),
        }
    ),
    action=ACTIONS,
)
def test_documents_of_both_splits_are_the_text(name, texts, text, action):
    if name == "a.jsonl":
        content = "".join(json.dumps({"text": document}) + "\n" for document in texts).encode()
    else:
        content = "\n".join(texts).encode("utf-8", "surrogatepass")
    found = []
    with Folder(name, content) as path:
        try:
            for split in ("train", "validation"):
                source = open_source(SourceConfig("text", text=TextConfig(files=(path,), **text)), split)
                skipped = SkippedRecords(source.name, BadRecordPolicy(action))
                found += [turn for document in documents(source, skipped) for turn in document.texts]
        except UserError as error:
            one_message(error)
            return
    assert not any(surrogate_in(document) for document in found)
    if name == "a.jsonl":
        expected = [document for document in texts if document.strip() and not surrogate_in(document)]
        if text["clean"]:
            expected = [document for document in expected if not is_invisible(document)]
        assert sorted(found) == sorted(expected)
    elif name == "a.txt" and not text["one_document_per_line"] and text["clean"]:
        # Nothing but a byte order mark and white space between documents is missing.
        whole = "\n".join(texts)
        if not surrogate_in(whole) and not is_invisible(whole):
            visible = [letter for letter in whole.removeprefix("\ufeff") if not is_invisible(letter)]
            assert sorted(visible) == sorted(c for part in found for c in part if not is_invisible(c))


ONES = (
    "text label premise hypothesis sentence1 sentence2 context question choice1 choice2 source target prompt task"
).split()
LISTS = st.lists(TEXTS, max_size=3)
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "x"]), "content": TEXTS}), max_size=3
)
# Mostly what a column should hold, now and then anything.
PLAUSIBLE = {
    **dict.fromkeys(ONES, TEXTS),
    "label": LABELS,
    "score": st.one_of(NUMBERS, st.sampled_from(["2.5", "x"])),
    "tokens": LISTS,
    "tags": st.lists(st.sampled_from(["O", "B-X", 1, ""]), max_size=3),
    "answers": LISTS,
    "starts": st.lists(st.integers(-2, 5), max_size=3),
    "messages": MESSAGES,
}
ROW = st.fixed_dictionaries(
    {}, optional={name: st.one_of(right, right, right, VALUES) for name, right in PLAUSIBLE.items()}
)


@pytest.mark.parametrize("name", sorted(TABLE))
def test_values_of_any_type_are_named(name):
    """No task fails in another way than with a message, whatever the values of its columns are."""
    task = TABLE.load(name)

    @fuzzed(50, suppressed=(HealthCheck.too_slow,))
    @given(
        rows=st.lists(ROW, max_size=3),
        action=ACTIONS,
    )
    def check(rows, action):
        content = "\n".join(json.dumps(row) for row in rows).encode()
        with Folder("a.jsonl", content) as path:
            records = RecordsConfig(train=(path,), validation=(path,))
            policy = BadRecordPolicy(action)
            config = task.config_class()
            try:
                config.validate()
                read = read_records(
                    records, "train", 0, policy, lambda record: task.check_record(config, record)
                )
                spec = small.spec_of(name, task.kinds[0], read)
                data = DataConfig(records=records, on_bad_record=action)
                pipeline = build_records(data, small.TOKENIZER, task, spec, batch_size=2, seed=0)
                for item in pipeline.items:
                    task.example(np.random.default_rng(0), item, spec)
            except UserError as error:
                one_message(error)

    check()


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.conll", "a.parquet"])
def test_files_of_any_bytes_are_named(name):
    rows = b'{"text": "a b", "label": "x"}\n"text","label"\ntext\tlabel\n\na O\n'

    @fuzzed(50, suppressed=(HealthCheck.too_slow,))
    @given(
        start=st.integers(0, len(rows)), noise=st.binary(max_size=12), cut=st.integers(0, 20), action=ACTIONS
    )
    def check(start, noise, cut, action):
        content = rows[:start] + noise + rows[start + cut :]
        with Folder(name, content) as path:
            try:
                read_records(
                    RecordsConfig(train=(path,), validation=(path,)), "train", 0, BadRecordPolicy(action)
                )
            except UserError as error:
                one_message(error)

    check()
