"""An imported tokenizer gives the ids of the library for any text, and a vocabulary that tlx can use."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.hub.folders import byte_pairs, word_pieces
from tlx.base.errors import DataError
from tlx.text import load_tokenizer
from tlx.text.huggingface_tokenizer import HuggingFaceTokenizer

pytest.importorskip("tokenizers")


@pytest.fixture(scope="module", params=[word_pieces, byte_pairs])
def pair(request, tmp_path_factory):
    """(the library's tokenizer, ours of the same folder, the folder)."""
    folder = tmp_path_factory.mktemp("tokenizer")
    theirs = request.param(folder)
    return theirs, HuggingFaceTokenizer.from_folder(folder), folder


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=40))
def test_the_same_ids_for_any_text(pair, text):
    theirs, ours, _ = pair
    wanted = theirs.encode(text, add_special_tokens=False).ids
    assert ours.encode(text) == wanted
    assert ours.encode_batch([text])[0].tolist() == wanted
    assert ours.decode(wanted) == theirs.decode(wanted)


def test_special_ids_and_what_is_added(pair):
    theirs, ours, _ = pair
    vocab, size = ours.vocab, theirs.get_vocab_size()
    assert vocab.size == size + vocab.added and vocab.num_sentinels == 0
    if theirs.token_to_id("[CLS]") is not None:
        assert (vocab.bos, vocab.eos, vocab.added) == (vocab.cls, vocab.sep, 0)
        assert vocab.mask == theirs.token_to_id("[MASK]")
        assert not ours.starts_word[theirs.token_to_id("##a")]
    else:
        assert vocab.bos == vocab.eos == theirs.token_to_id("<|end|>")
        assert sorted({vocab.pad, vocab.mask, vocab.cls, vocab.sep}) == list(range(size, size + 4))
        text = "the Katze 고양이 🐈"
        assert ours.num_bytes[ours.encode(text)].sum() == len(text.encode())
        assert ours.decode([*ours.encode(text), vocab.pad]) == text
    assert vocab.special[[vocab.pad, vocab.mask, vocab.cls]].all()
    assert not ours.num_bytes[vocab.special].any()


def test_saved_loaded_pickled_and_given_back(pair, tmp_path):
    _, ours, folder = pair
    ours.save(tmp_path / "run")
    for other in (load_tokenizer(tmp_path / "run"), pickle.loads(pickle.dumps(ours))):
        assert other.hash == ours.hash and other.vocab == ours.vocab
        np.testing.assert_array_equal(other.num_bytes, ours.num_bytes)
    ours.export(tmp_path / "back")
    for path in folder.iterdir():
        assert (tmp_path / "back" / path.name).read_bytes() == path.read_bytes()


def test_damage_is_noticed(pair, tmp_path):
    _, ours, _ = pair
    ours.save(tmp_path)
    path = tmp_path / "huggingface" / "special_tokens_map.json"
    path.write_text(path.read_text() + " ")
    with pytest.raises(DataError, match="damaged"):
        load_tokenizer(tmp_path)


def test_a_folder_without_one_says_what_to_do(tmp_path):
    with pytest.raises(DataError, match="AutoTokenizer"):
        HuggingFaceTokenizer.from_folder(tmp_path)
