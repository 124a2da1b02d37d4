"""Bytes of a corpus are those of its text, whatever its tokenizer drops."""

from types import SimpleNamespace

import numpy as np
import pytest

from tests.hub.folders import byte_pairs, word_pieces
from tlx.data import text_bytes
from tlx.text import TokenizerConfig, make_tokenizer
from tlx.text.huggingface_tokenizer import HuggingFaceTokenizer
from tlx.text.lossless import decoded_bytes, is_lossless

TEXT = "the cat sat on the mat, and UBER 쀍쀍"


def caches(tokenizer):
    tokens = np.array(tokenizer.encode(TEXT), np.int32)
    split = SimpleNamespace(
        tokens=tokens,
        read_tokens=lambda start, stop: tokens[start:stop],
        num_tokens=len(tokens),
        num_bytes=len(TEXT.encode()),
    )
    return [split] * 2


def test_lossless_tokenizers_count_their_own_bytes(tmp_path):
    pytest.importorskip("tokenizers")
    byte_pairs(tmp_path)
    for tokenizer in (
        make_tokenizer(TokenizerConfig(kind="bytes"), ()),
        make_tokenizer(TokenizerConfig(vocab_size=400), [TEXT] * 20),
        HuggingFaceTokenizer.from_folder(tmp_path),
    ):
        assert is_lossless(tokenizer)
        assert text_bytes.bytes_of_ids((), tokenizer) is tokenizer.num_bytes
        assert decoded_bytes(tokenizer, np.array(tokenizer.encode(TEXT))[1:]) == len(TEXT.encode()) - len(
            tokenizer.piece_bytes(tokenizer.encode(TEXT)[0])
        )


def test_the_others_are_scaled_to_the_text(tmp_path):
    pytest.importorskip("tokenizers")
    word_pieces(tmp_path)
    tokenizer = HuggingFaceTokenizer.from_folder(tmp_path)
    corpus = caches(tokenizer)
    assert not is_lossless(tokenizer)
    table = text_bytes.bytes_of_ids(corpus, tokenizer)
    assert table[corpus[0].tokens].sum() == pytest.approx(len(TEXT.encode()), rel=1e-5)
    assert tokenizer.num_bytes[corpus[0].tokens].sum() < len(TEXT.encode()) - 8
    assert decoded_bytes(tokenizer, np.array(tokenizer.encode("the cat sat"))) == len("the cat sat")
