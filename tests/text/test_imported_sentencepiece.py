"""Imported SentencePiece models: ids as SentencePiece's, moved as each family moves them."""

import io
import json
import pickle

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from tlx.base.errors import ConfigError, DataError
from tlx.text import load_tokenizer
from tlx.text.imported_sentencepiece import LAYOUTS, ImportedSentencePiece

TEXT = (
    "The cat sat on the mat. It was 9,000 days old, or 12, and so it was a very old cat.\n"
    "고양이가 매트 위에 앉았다. 나는 그것을 보았다. Der Hund bellt, und die Katze schläft.\n"
) * 8


def train(**options) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.splitlines()),
        model_writer=model,
        minloglevel=2,
        hard_vocab_limit=False,
        **{"vocab_size": 140, "model_type": "unigram"} | options,
    )
    return model.getvalue()


OF_T5 = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
OF_ALBERT = {"pad_id": 0, "unk_id": 1, "bos_id": -1, "eos_id": -1, "control_symbols": "[CLS],[SEP],[MASK]"}
OF_XLNET = {"bos_id": 1, "eos_id": 2, "unk_id": 0, "control_symbols": "<cls>,<sep>,<pad>,<mask>"}
# layout: (file, how its model was trained)
FAMILIES = {
    "t5": ("spiece.model", OF_T5),
    "mt5": ("spiece.model", OF_T5),
    "llama": ("tokenizer.model", {"byte_fallback": True, "model_type": "bpe", "vocab_size": 420}),
    "albert": ("spiece.model", OF_ALBERT),
    "xlnet": ("spiece.model", OF_XLNET),
    "xlm-roberta": ("sentencepiece.bpe.model", {}),
    "mbart": ("sentencepiece.bpe.model", {}),
}


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request, tmp_path_factory):
    """(layout, the library's processor, ours, the folder)."""
    file, options = FAMILIES[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    (folder / file).write_bytes(train(**options))
    if request.param == "mbart":
        (folder / "tokenizer_config.json").write_text(json.dumps({"src_lang": "ko_KR"}))
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / file))
    return request.param, processor, ImportedSentencePiece.from_folder(folder, request.param), folder


@settings(max_examples=60, deadline=None)
@given(text=st.text(st.sampled_from("catmh 고양이 9,1.äÄ") | st.characters(codec="utf-8"), max_size=30))
def test_the_same_ids_for_any_text(pair, text):
    layout, processor, ours, _ = pair
    if LAYOUTS[layout].tidy or ours._by_name.search(text):
        return
    moved = {0: 3, 1: 0, 2: 2} if LAYOUTS[layout].fairseq else {}
    shift = 1 if moved else 0
    wanted = [moved.get(index, index + shift) for index in processor.encode(text)]
    assert ours.encode(text) == wanted
    assert ours.encode_batch([text])[0].tolist() == wanted


def test_special_ids_frame_and_what_is_added(pair):
    layout, processor, ours, _ = pair
    vocab, count = ours.vocab, processor.get_piece_size()
    before, behind = ours.frame
    if layout == "t5":
        assert (vocab.pad, vocab.eos, vocab.unk, vocab.num_sentinels) == (0, 1, 2, 100)
        assert ours.encode("a<extra_id_0> cat")[1:-1].count(vocab.sentinel(0)) == 1
        assert vocab.sentinel(0) == count + 99 and (before, behind) == ([], [1])
    if layout == "mt5":
        assert vocab.num_sentinels == 0 and vocab.size - vocab.added == count
    if layout == "llama":
        assert (vocab.unk, vocab.bos, vocab.eos) == (0, 1, 2) and (before, behind) == ([1], [])
        assert ours.decode(ours.encode("a 🐈 cat")) == "a 🐈 cat"
    if layout == "xlm-roberta":
        assert (vocab.bos, vocab.pad, vocab.eos, vocab.unk, vocab.mask) == (0, 1, 2, 3, count + 1)
        assert (before, behind) == ([0], [2])
    if layout == "mbart":
        assert vocab.mask == count + 26 and behind == [2, count + 1 + 13]
    if layout == "xlnet":
        assert behind == [vocab.sep, vocab.cls] == [processor.piece_to_id(x) for x in ("<sep>", "<cls>")]
    assert vocab.size - vocab.added == 1 + max(ours._ids.values())
    assert ours.decode(ours.encode("the cat sat")) == "the cat sat"
    assert ours.num_bytes[ours.encode("the cat")].sum() == len(" the cat")


def test_albert_cleans_texts_and_xlnet_keeps_case(pair):
    layout, processor, ours, _ = pair
    if not LAYOUTS[layout].tidy:
        return
    same = ours.encode("the ``cat''  sat")
    assert same == ours.encode('the "cat" sat')
    assert (ours.encode("The Cat") == ours.encode("the cat")) == (layout == "albert")
    assert ours.encode("schläft") == ours.encode("schlaft")
    pieces = [ours.piece(index) for index in ours.encode("9,000 12, and")]
    assert not any(len(piece) > 1 and piece[-1] == "," and piece[-2].isdigit() for piece in pieces)


def test_saved_loaded_pickled_given_back_and_damaged(pair, tmp_path):
    _, _, ours, folder = pair
    ours.save(tmp_path / "run")
    for other in (load_tokenizer(tmp_path / "run"), pickle.loads(pickle.dumps(ours))):
        assert other.hash == ours.hash and other.vocab == ours.vocab
        np.testing.assert_array_equal(other.num_bytes, ours.num_bytes)
    ours.export(tmp_path / "back")
    for path in folder.iterdir():
        assert (tmp_path / "back" / path.name).read_bytes() == path.read_bytes()
    damaged = next((tmp_path / "run" / "sentencepiece").glob("*.model"))
    damaged.write_bytes(damaged.read_bytes() + b"\x0a\x00")
    with pytest.raises(DataError, match="damaged"):
        load_tokenizer(tmp_path / "run")


def test_bytes_are_those_of_the_text(pair):
    _, _, ours, _ = pair
    name = next(iter(ours._special))
    for text in ("the cat", " The  CAT ``sat''", "쀍 9,000"):
        assert ours.count_bytes(text) == len(text.encode())
        assert ours.count_bytes(f"{text}{name}{text}") == 2 * len(text.encode())


def test_settings_say_which_parts_get_a_space_in_front(tmp_path):
    file, options = FAMILIES["llama"]
    (tmp_path / file).write_bytes(train(**options))

    def encoded(text, **settings):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
        ours = ImportedSentencePiece.from_folder(tmp_path, "llama")
        ours.save(tmp_path / "run")
        assert load_tokenizer(tmp_path / "run").encode(text) == ours.encode(text)
        return [ours.piece(index) for index in ours.encode(text)], ours.decode(ours.encode(text))

    spaced, text = encoded("cat<s>cat")
    assert spaced == [*spaced[: spaced.index("<s>")], "<s>", *spaced[: spaced.index("<s>")]]
    assert spaced[0][0] == "▁" and text == "cat cat"
    first, text = encoded("cat<s>cat", legacy=False)
    assert first[: first.index("<s>")] == spaced[: spaced.index("<s>")] and text == "catcat"
    assert "".join(first[first.index("<s>") + 1 :]) == "cat"
    assert encoded("<s>cat", legacy=False)[0] == first[first.index("<s>") :]
    none, text = encoded("cat", legacy=False, add_prefix_space=False)
    assert "".join(none) == "cat" == text
    assert encoded("cat", legacy=True) == encoded("cat")


def test_a_family_whose_numbering_is_unknown_is_named():
    with pytest.raises(ConfigError, match="pegasus"):
        ImportedSentencePiece({"spiece.model": b""}, "pegasus")
    with pytest.raises(DataError, match="cannot be read"):
        ImportedSentencePiece({"spiece.model": b"no model"}, "t5")
