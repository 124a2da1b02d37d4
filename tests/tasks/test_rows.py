"""Texts as rows of each shape, by hand."""

import numpy as np
import pytest

from tests.tasks.small import LENGTH, SHAPES, TOKENIZER
from tlx.base.errors import ConfigError
from tlx.tasks.shared.base import TaskSpec
from tlx.tasks.shared.inputs import input_row, truncate

V = TOKENIZER.vocab
A, B = np.array([10, 11, 12], np.int32), np.array([20, 21], np.int32)

# (texts, kind) -> tokens of the row that the hidden state is read from, types, place
ROWS = {
    ("encoder", 1): ([V.cls, *A, V.sep], [0] * 5, 0),
    ("encoder", 2): ([V.cls, *A, V.sep, *B, V.sep], [0] * 5 + [1] * 3, 0),
    ("two_stream", 1): ([*A, V.sep, V.cls], [0] * 4 + [2], 4),
    ("two_stream", 2): ([*A, V.sep, *B, V.sep, V.cls], [0] * 4 + [1] * 3 + [2], 7),
    ("decoder", 1): ([V.bos, *A, V.cls], None, 4),
    ("decoder", 2): ([V.bos, *A, V.sep, *B, V.cls], None, 7),
    ("encoder_decoder", 1): ([V.bos, *A, V.eos], None, 4),
    ("bilstm", 1): ([V.eos, *A, V.eos], None, 4),
    ("bilstm", 2): ([V.eos, *A, V.eos, *B, V.eos], None, 7),
    ("encoder_decoder", 2): ([V.bos, *A, V.sep, *B, V.eos], None, 7),
}


@pytest.mark.parametrize(("kind", "count"), ROWS)
def test_rows_by_hand(kind, count):
    tokens, types, place = ROWS[kind, count]
    row = input_row((A, B)[:count], TaskSpec(None, LENGTH, V, kind))
    prefix, size = "decoder_" if kind == "encoder_decoder" else "", len(tokens)
    rest = LENGTH - size
    np.testing.assert_array_equal(row[prefix + "tokens"], [*tokens, *[V.pad] * rest])
    np.testing.assert_array_equal(row[prefix + "segments"], [1] * size + [0] * rest)
    np.testing.assert_array_equal(row[prefix + "positions"], [*range(size), *[0] * rest])
    assert row["place"] == place
    if types is not None:
        np.testing.assert_array_equal(row["types"], [*types, *[0] * rest])
    if kind == "encoder_decoder":  # the encoder reads the same without the start
        np.testing.assert_array_equal(row["encoder_tokens"], [*tokens[1:], *[V.pad] * (rest + 1)])


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("sizes", [(40,), (40, 3), (3, 40), (40, 41), (0, 0), (11, 0)])
def test_long_texts_fill_the_row_and_keep_its_frame(kind, sizes):
    texts = tuple(np.arange(100, 100 + size, dtype=np.int32) for size in sizes)
    row = input_row(texts, TaskSpec(None, LENGTH, V, kind))
    prefix = "decoder_" if kind == "encoder_decoder" else ""
    tokens = row[prefix + "tokens"]
    used = int(row[prefix + "segments"].sum())
    assert used == LENGTH if sum(sizes) > LENGTH else used <= LENGTH
    special = {"encoder": V.cls, "two_stream": V.cls, "decoder": V.cls, "encoder_decoder": V.eos}[kind]
    assert tokens[row["place"]] == special
    assert all(name.dtype == np.int32 for name in row.values())


def test_the_longer_text_loses():
    def sizes(a, b, room):
        return [len(text) for text in truncate((np.zeros(a), np.zeros(b)), room)]

    assert sizes(10, 4, 20) == [10, 4]
    assert sizes(10, 4, 10) == [6, 4]
    assert sizes(10, 4, 6) == [3, 3]
    assert sizes(10, 10, 5) == [3, 2]
    assert sizes(100, 100, 0) == [0, 0]
    np.testing.assert_array_equal(truncate((np.arange(5),), 3)[0], [0, 1, 2])  # from the end


def test_a_row_without_room_is_refused():
    with pytest.raises(ConfigError, match="sequence_length = 4"):
        input_row((A,), TaskSpec(None, 4, V, "encoder"))
