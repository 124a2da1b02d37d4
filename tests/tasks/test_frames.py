"""Rows in the template of an imported tokenizer, and heads of other layers than tlx's own."""

import dataclasses

import numpy as np
import pytest

from tlx.base.errors import ConfigError
from tlx.data.readers import Record
from tlx.tasks.classification import TASK as CLASSIFICATION
from tlx.tasks.classification import Classification
from tlx.tasks.regression import TASK as REGRESSION
from tlx.tasks.regression import Regression
from tlx.tasks.shared.base import Item, TaskSpec
from tlx.tasks.shared.frames import frames_of
from tlx.tasks.shared.inputs import input_row
from tlx.tasks.shared.packed_examples import JoinedItems
from tlx.tasks.shared.spans import max_text_tokens, text_start
from tlx.text.bytes_tokenizer import BytesTokenizer
from tlx.text.frames import RowFrame, frame_of_encoding
from tlx.text.vocabulary import Vocabulary

V = Vocabulary(100)
A, B = np.array([20, 21, 22], np.int32), np.array([30, 31], np.int32)
# RoBERTa: two ids between the texts.
FRAMES = (
    RowFrame(((90,), (91,)), ((0,), (0,)), (0,)),
    RowFrame(((90,), (91, 91), (91,)), ((0,), (0, 0), (1,)), (0, 1)),
)
BARE = (RowFrame(((), ()), ((), ()), (0,)),)


def spec(kind, frames=FRAMES, length=12, config=None, **rest):
    return TaskSpec(config, length, V, kind, frames=frames, **rest)


def test_a_template_is_read_from_an_encoded_row():
    encoded = ([90, 20, 91, 91, 30, 31, 91], [0, 0, 0, 0, 1, 1, 1], [None, 0, None, None, 1, 1, None])
    assert frame_of_encoding(*encoded, 2) == FRAMES[1]
    assert frame_of_encoding([20], [0], [0], 1) == BARE[0]


def test_rows_of_each_kind():
    pair = [90, 20, 21, 22, 91, 91, 30, 31, 91]
    row = input_row((A, B), spec("encoder"))
    np.testing.assert_array_equal(row["tokens"][:9], pair)
    np.testing.assert_array_equal(row["types"][:9], [0, 0, 0, 0, 0, 0, 1, 1, 1])
    assert row["place"] == 0 and row["segments"].sum() == 9
    for kind in ("decoder", "two_stream"):
        row = input_row((A, B), spec(kind))
        np.testing.assert_array_equal(row["tokens"][:9], pair)
        assert row["place"] == 8 and ("types" in row) == (kind == "two_stream")
    row = input_row((A, B), spec("encoder_decoder"))
    np.testing.assert_array_equal(row["encoder_tokens"][:9], pair)
    np.testing.assert_array_equal(row["decoder_tokens"][:9], [V.bos, *pair[:-1]])
    assert row["place"] == 8


def test_texts_find_their_room_and_their_begin():
    wide = spec("encoder", prompt=(98, 99))
    assert max_text_tokens(2, wide) == 12 - 4 - 2
    row = input_row((A, B), wide)
    for number, text in enumerate((A, B)):
        start = text_start((A, B), number, wide)
        np.testing.assert_array_equal(row["tokens"][start : start + len(text)], text)
    short = input_row((A, B), spec("encoder", length=7))
    np.testing.assert_array_equal(short["tokens"], [90, 20, 21, 91, 91, 30, 91])
    with pytest.raises(ConfigError, match="data.sequence_length = 4 must be more than 4"):
        input_row((A, B), spec("encoder", length=4))
    assert input_row((A[:0],), spec("decoder", BARE))["place"] == 0
    packed = spec("encoder", length=40)
    assert CLASSIFICATION.example_size(JoinedItems((Item((np.arange(20),), None),)), packed) == 22


def test_a_tokenizer_of_tlx_has_no_template():
    tokenizer = BytesTokenizer()
    with pytest.raises(ConfigError, match="objective.frame = 'tokenizer': only an imported tokenizer"):
        frames_of(tokenizer, 1)


def test_a_number_of_one_text():
    config = Regression(min_score=1.0, max_score=5.0)
    task_spec = TaskSpec(config, 12, V, "decoder")
    row = REGRESSION.example(np.random.default_rng(0), Item((A,), 0.25), task_spec)
    assert row["tokens"].shape == (12,) and row["label"] == 0.25
    answers = REGRESSION.predictions({"number": np.array([0.0, 1.0, 0.5])}, [], task_spec)
    assert [answer["score"] for answer in answers] == [1.0, 5.0, 3.0]
    records = [Record(str(i), {"text": "x", "score": number}) for i, number in enumerate((1, 5, 3))]
    assert REGRESSION.score(answers, records, task_spec).figures["rmse"] == 0
    with pytest.raises(ConfigError, match="min_score = 2.0 must be below objective.max_score = 1.0"):
        dataclasses.replace(config, min_score=2.0, max_score=1.0).validate()
    assert REGRESSION.empty_item(task_spec).texts[0].size == 0
    assert Classification().head.dense == "auto"
