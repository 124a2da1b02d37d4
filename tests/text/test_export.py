"""What tlx trained gives other programs the same ids for any text, and the text back."""

import functools
import json
import pathlib
import re
import sysconfig

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tlx.text import make_tokenizer
from tlx.text.config import TokenizerConfig

tokenizers = pytest.importorskip("tokenizers")

FILES = sorted(pathlib.Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
KOREAN = "고양이가 매트 위에 앉았다. 나는 그것을 보았다.\n"
KINDS = {
    "bytes": TokenizerConfig(kind="bytes"),
    "bpe": TokenizerConfig(vocab_size=1200, model_type="bpe"),
    "unigram": TokenizerConfig(vocab_size=900, model_type="unigram"),
}


@functools.cache
def read(begin: int, end: int) -> str:
    return "".join(path.read_text(encoding="utf-8", errors="replace") for path in FILES[begin:end])


@pytest.fixture(scope="module", params=KINDS)
def pair(request, tmp_path_factory):
    """(kind, ours, what another program reads from the files)."""
    ours = make_tokenizer(KINDS[request.param], [read(0, 4), 20 * KOREAN])
    folder = tmp_path_factory.mktemp(request.param)
    ours.export(folder, ([ours.vocab.bos], [ours.vocab.eos]))
    return request.param, ours, tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


def ids(theirs, text):
    return theirs.encode(text, add_special_tokens=False).ids


@settings(max_examples=80, deadline=None)
@given(text=st.text(st.sampled_from("ab_ \n\t▁é고양이🐈1.=") | st.characters(codec="utf-8"), max_size=40))
def test_the_same_ids_for_any_text(pair, text):
    kind, ours, theirs = pair
    assume(not re.search("<(pad|unk|s|/s|mask|cls|sep|extra_id_[0-9]+)>", text))  # ids to them, text to us
    found = ids(theirs, text)
    if kind != "unigram":
        assert found == ours.encode(text)
    assert ours.decode(found) == text == theirs.decode(found)


def test_the_same_ids_of_source_code(pair):
    kind, ours, theirs = pair
    text = read(4, 10)
    chunks = [text[start : start + 500] for start in range(0, len(text), 500)]
    different = sum(ids(theirs, chunk) != ours.encode(chunk) for chunk in chunks)
    assert len(chunks) > 100
    # Unigram: of equally likely segmentations (runs of one character) each library has its own.
    assert different <= (0.05 * len(chunks) if kind == "unigram" else 0)


def test_special_ids_and_frame(pair, tmp_path):
    _, ours, theirs = pair
    vocab = ours.vocab
    assert theirs.encode("ab").ids == [vocab.bos, *ours.encode("ab"), vocab.eos]
    assert theirs.get_vocab_size() == vocab.size
    assert theirs.token_to_id("<mask>") == vocab.mask
    assert theirs.token_to_id("<extra_id_3>") == vocab.sentinel(3)
    assert theirs.decode([vocab.bos, *ours.encode("ab"), vocab.pad]) == "ab"
    ours.export(tmp_path, ([], []))
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["pad_token"] == "<pad>"
