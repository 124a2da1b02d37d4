"""An imported tokenizer gives the ids of the library for any text, and a vocabulary that tlx can use."""

import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.hub.folders import byte_pairs, word_pieces
from tlx.base.errors import ConfigError, DataError
from tlx.decode import stop
from tlx.text import load_tokenizer
from tlx.text.bytes_tokenizer import BytesTokenizer
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


def test_added_tokens_stand_for_the_bytes_of_their_text(tmp_path):
    """Runs of spaces as in GPT-NeoX's vocabulary, and words: no special ids, though they are added."""
    added = ["카카오", "    ", "😀", "é"]
    theirs = byte_pairs(tmp_path)
    theirs.add_tokens(added)
    theirs.add_special_tokens(["<|mark|>"])
    theirs.save(str(tmp_path / "tokenizer.json"))
    ours = HuggingFaceTokenizer.from_folder(tmp_path)
    for text in added:
        (index,) = ours.encode(text)
        assert ours.piece_bytes(index) == text.encode() and ours.num_bytes[index] == len(text.encode())
        assert stop.automaton((text,), ours)[stop.BEGIN, index] == stop.FOUND
    text = "if x:\n    카카오 the 😀"
    assert ours.num_bytes[ours.encode(text)].sum() == ours.count_bytes(text) == len(text.encode())
    assert ours.count_bytes("the<|mark|> 고<|end|>") == len("the 고".encode())
    assert BytesTokenizer().count_bytes("the<s>") == 6


def test_bytes_are_those_of_the_text_where_the_tokenizer_changes_it(tmp_path):
    word_pieces(tmp_path)
    ours = HuggingFaceTokenizer.from_folder(tmp_path)
    for text in ("the cat sat on the mat", "ÜBER 고양이 and a cat", "UBER 쀍쀍", "  [unk]  "):
        assert ours.count_bytes(text) == len(text.encode())
    assert ours.vocab.unk in ours.encode("쀍쀍 [UNK]")
    assert ours.count_bytes("쀍쀍 [UNK][MASK]") == len("쀍쀍 ".encode())


def with_settings(folder, settings, model_type):
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    return HuggingFaceTokenizer.from_folder(folder)


def test_settings_count_over_tokenizer_json(tmp_path):
    words, pairs = tmp_path / "words", tmp_path / "pairs"
    word_pieces(words)
    byte_pairs(pairs)
    plain = HuggingFaceTokenizer.from_folder(words)
    cased = with_settings(words, {"do_lower_case": False, "tokenizer_class": "BertTokenizerFast"}, "bert")
    assert plain.encode("the CAT") == plain.encode("the cat")
    assert cased.encode("the CAT")[1:] == [cased.vocab.unk] and cased.encode("the cat") == plain.encode(
        "the cat"
    )
    generic = with_settings(
        words, {"do_lower_case": False, "tokenizer_class": "PreTrainedTokenizerFast"}, "bert"
    )
    assert generic.encode("the CAT") == plain.encode("the CAT")
    spaced = with_settings(
        pairs, {"add_prefix_space": True, "tokenizer_class": "RobertaTokenizer"}, "roberta"
    )
    assert (
        spaced.encode("the cat")
        == spaced.encode(" the cat")
        != HuggingFaceTokenizer(spaced.files).encode("the cat")
    )
    with pytest.raises(ConfigError, match="do_lower_case = 'no' must be true or false"):
        with_settings(words, {"do_lower_case": "no"}, "bert")
    # Kept with a run; one that was saved without the settings keeps its ids, and its hash.
    spaced.save(tmp_path / "run")
    assert load_tokenizer(tmp_path / "run").encode("the cat") == spaced.encode("the cat")
    assert pickle.loads(pickle.dumps(spaced)).encode("the cat") == spaced.encode("the cat")
    older = HuggingFaceTokenizer(spaced.files)
    older.save(tmp_path / "older")
    assert load_tokenizer(tmp_path / "older").encode("the cat") == older.encode("the cat")
    assert older.hash != spaced.hash
    agreeing = with_settings(
        pairs, {"add_prefix_space": False, "tokenizer_class": "RobertaTokenizer"}, "roberta"
    )
    assert agreeing.hash == HuggingFaceTokenizer(agreeing.files).hash
