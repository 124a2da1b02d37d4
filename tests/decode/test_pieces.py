"""Pieces of text: joined they are the whole, and nothing is shown that is taken back."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlx.decode.pieces import TextPieces, text_pieces
from tlx.decode.stop import cut, joins_bytes
from tlx.text import TokenizerConfig, make_tokenizer
from tlx.text.huggingface_tokenizer import HuggingFaceTokenizer

BYTES = make_tokenizer(TokenizerConfig(kind="bytes"), ())


def chunked(items, sizes):
    items = list(items)
    while items:
        size = sizes.pop() if sizes else 1
        yield items[:size]
        items = items[size:]


@settings(deadline=None)
@given(
    st.text(st.sampled_from("abc é猫😀\n"), max_size=30),
    st.lists(st.text(st.sampled_from("abcé猫"), min_size=1, max_size=3), max_size=3),
    st.lists(st.integers(1, 5), max_size=10),
)
def test_pieces_are_the_text_up_to_the_first_stop_string(text, stop, sizes):
    ids = BYTES.encode(text)
    # The row ends with the token that completes a stop string, as the device's automaton ends it.
    end = next((n for n in range(len(ids) + 1) if any(s in BYTES.decode(ids[:n]) for s in stop)), len(ids))
    pieces = TextPieces(BYTES.decode, stop)
    assert "".join(text_pieces(chunked(ids, sizes), pieces)) == cut(BYTES.decode(ids[:end]), stop)
    assert pieces.tokens == ids[:end]


def test_a_piece_is_whole_characters_and_no_beginning_of_a_stop_string():
    pieces = TextPieces(BYTES.decode, ["END", "N?"])
    shown = [pieces.feed([index]) for index in BYTES.encode("é E, ENDE")]
    assert shown == ["", "é", " ", "", "E,", " ", "", "", "", ""][: len(shown)]
    assert pieces.stopped and pieces.finish() == ""


def test_bytes_that_are_no_character_are_shown_at_the_end():
    half = BYTES.encode("猫")[:2]
    pieces = TextPieces(BYTES.decode)
    assert pieces.feed(half) == "" and pieces.finish() == "\N{REPLACEMENT CHARACTER}"
    pieces = TextPieces(BYTES.decode)
    ids = half + BYTES.encode("a")
    assert pieces.feed(half) + pieces.feed(ids[2:]) == BYTES.decode(ids)


def test_white_space_at_both_ends_is_left_out():
    pieces = TextPieces(BYTES.decode, strip=True)
    shown = [pieces.feed([index]) for index in BYTES.encode(" \na b \n")]
    assert "".join(shown) == "a b" and pieces.finish() == ""


def test_word_pieces_are_shown_word_by_word():
    tokenizers = pytest.importorskip("tokenizers")
    words = ["[UNK]", "[PAD]", "do", "##n", "n", "'", "t", "go", ".", "##ing"]
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordPiece({word: index for index, word in enumerate(words)}, unk_token="[UNK]")
    )
    tokenizer.decoder = tokenizers.decoders.WordPiece(cleanup=True)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    files = {"tokenizer.json": tokenizer.to_str().encode(), "tokenizer_config.json": json.dumps({}).encode()}
    wrapped = HuggingFaceTokenizer(files)
    assert not joins_bytes(wrapped)
    for ids in ([2, 4, 5, 6, 7, 9, 8, 7], [7, 9, 8], [2, 3]):
        pieces = TextPieces(wrapped.decode, joins_bytes=False)
        assert "".join(text_pieces([[index] for index in ids], pieces)) == wrapped.decode(ids)
