"""Ids and the characters they stand for, of every kind of tokenizer."""

import pytest

from tests.hub import folders
from tlx.text import TokenizerConfig, make_tokenizer
from tlx.text.huggingface_tokenizer import HuggingFaceTokenizer
from tlx.text.spans import encode_with_spans, overlapping

TEXTS = ("the cat sat", "Käse und 고양이 🐈!", "", " a  b\n", "▁x", "é" * 5)


@pytest.mark.parametrize("kind", ["bytes", "sentencepiece"])
def test_spans_of_lossless_tokenizers_cover_the_text(kind):
    texts = [f"the cat number {i} sat on the mat and ate käse" for i in range(300)]
    tokenizer = make_tokenizer(TokenizerConfig(kind=kind, vocab_size=420), texts)
    for text in TEXTS:
        ids, spans = encode_with_spans(tokenizer, text)
        assert ids.tolist() == tokenizer.encode(text)
        for index, (start, stop) in zip(ids, spans, strict=True):
            piece = tokenizer.decode([index])
            if "\ufffd" not in piece:  # whole characters
                assert text[start:stop] == piece
            else:
                assert stop - start == 1
        covered = {place for start, stop in spans for place in range(start, stop)}
        assert covered == set(range(len(text)))


def test_spans_of_a_tokenizer_that_changes_the_text(tmp_path):
    pytest.importorskip("tokenizers")
    folders.word_pieces(tmp_path)
    tokenizer = HuggingFaceTokenizer.from_folder(tmp_path)
    ids, spans = encode_with_spans(tokenizer, "The CAT")
    assert ids.tolist() == tokenizer.encode("The CAT")
    assert spans[0, 0] == 0 and spans[-1, 1] == 7 and 3 not in {p for a, b in spans for p in range(a, b)}


def test_overlapping():
    _, spans = encode_with_spans(make_tokenizer(TokenizerConfig(kind="bytes"), ()), "aé b")
    assert overlapping(spans, 1, 2) == (1, 3)  # both bytes of é
    assert overlapping(spans, 0, 4) == (0, 5) and overlapping(spans, 4, 9) == (0, 0)
