"""Stop strings end a row wherever tokens begin and end, and repetition is penalised as by hand."""

import itertools
import re

import numpy as np
import pytest

from tests.decode.tiny import PROMPTS, VOCAB, built, full_logits
from tests.hub import folders
from tlx.base.errors import ConfigError
from tlx.decode import stop
from tlx.decode.beam import beam_search
from tlx.decode.generate import generate
from tlx.decode.sampling import Sampling
from tlx.text import Vocabulary
from tlx.text.huggingface_tokenizer import HuggingFaceTokenizer


class Pieces:
    """A vocabulary whose pieces are all texts of up to three of "a", "b" and a letter of two bytes."""

    def __init__(self):
        texts = ["".join(t) for n in (1, 2, 3) for t in itertools.product("abß", repeat=n)]
        self.pieces = [b""] * 7 + [text.encode() for text in texts] + [b"<x>"]
        self.vocab = Vocabulary(len(self.pieces), num_sentinels=1)

    def encode(self, text):
        return []

    def decode(self, ids):
        return b"".join(self.piece_bytes(index) for index in ids).decode("utf-8", "replace")

    def piece(self, index):
        return self.pieces[index].decode()

    def piece_bytes(self, index):
        return b"" if self.vocab.special[index] else self.pieces[index]


TOKENIZER = Pieces()


@pytest.mark.parametrize(
    "strings", [("ab",), ("aab", "ba"), ("aabaa", "abb"), ("ßa", "aa"), ("a", "ab", "bßb")]
)
def test_the_automaton_is_there_when_the_text_is(strings):
    """Over random rows of tokens: found at the very token that completes the first stop string."""
    table = stop.automaton(strings, TOKENIZER)
    rng = np.random.default_rng(0)
    lengths = set()
    for _ in range(200):
        state, text = stop.BEGIN, ""
        for token in rng.integers(6, TOKENIZER.vocab.size, 12):
            state = table[state, token]
            text += TOKENIZER.decode([token])
            there = any(string in text for string in strings)
            assert (state == stop.FOUND) == there
            if there:
                lengths.add(len(text))
                assert stop.cut(text, strings) == re.split("|".join(strings), text)[0]
                break
    assert len(lengths) > 3


def test_imported_tokenizers(tmp_path):
    """Byte-level pieces cut characters in two; word pieces get spaces between them, and are left alone."""
    pytest.importorskip("tokenizers")
    folders.byte_pairs(tmp_path / "bytes")
    folders.word_pieces(tmp_path / "words")
    tokenizer = HuggingFaceTokenizer.from_folder(tmp_path / "bytes")
    strings = ("양이 a", "t on", "\n")
    table = stop.automaton(strings, tokenizer)
    for text in ("고양이 and more", "the cat sat on", "no", "a\nb", "고양 이 an"):
        ids = [tokenizer.encode(letter) for letter in text] if "고" in text else [tokenizer.encode(text)]
        state, said = stop.BEGIN, []
        for token in sum(ids, []):
            state, said = table[state, token], [*said, token]
            assert (state == stop.FOUND) == any(string in tokenizer.decode(said) for string in strings)
        assert (state == stop.FOUND) == (stop.cut(text, strings) != text)
    assert stop.automaton(strings, HuggingFaceTokenizer.from_folder(tmp_path / "words")) is None


def test_names_of_special_ids_count_where_they_are_shown():
    names = stop.automaton(("a<x>",), TOKENIZER, names_too=True)
    a, sentinel = TOKENIZER.pieces.index(b"a"), TOKENIZER.vocab.sentinel(0)
    assert names[names[stop.BEGIN, a], sentinel] == stop.FOUND
    plain = stop.automaton(("aa",), TOKENIZER)
    assert plain[plain[plain[stop.BEGIN, a], sentinel], a] == stop.FOUND


def test_what_is_no_stop_string_is_refused():
    with pytest.raises(ConfigError, match="must be a sequence of texts, such as"):
        stop.check("ab")
    with pytest.raises(ConfigError, match="not empty"):
        stop.check(("a", ""))
    assert stop.cut("abcab", ("ca", "b")) == "a" and stop.cut("abc", ("x",)) == "abc"


def ends_at(tokens, pair):
    """Tokens up to where the pair has just been said."""
    places = [i + 2 for i in range(len(tokens) - 1) if tuple(tokens[i : i + 2]) == pair]
    return tokens[: min(places, default=len(tokens))]


def pair_automaton(pair):
    """Of the "text" that is two given tokens one after the other."""
    table = np.zeros((3, VOCAB.size), np.int32)
    table[1] = stop.FOUND
    table[:, pair[0]] = [2, stop.FOUND, 2]
    table[2, pair[1]] = stop.FOUND
    return table


@pytest.mark.parametrize("temperature", [0.0, 1.3])
def test_a_row_ends_at_its_stop_string_and_the_others_go_on(temperature):
    lm, params = built()
    given = dict(max_tokens=18, sampling=Sampling(temperature), seed=2)
    whole = generate(lm, params, PROMPTS, VOCAB, **given)
    pair = tuple(whole[3][3:5])
    found = generate(lm, params, PROMPTS, VOCAB, **given, stops_AV=pair_automaton(pair))
    assert found == [ends_at(tokens, pair) for tokens in whole]
    assert len(found[3]) <= 5 and max(map(len, found)) > 5


@pytest.mark.slow
def test_a_beam_ends_at_its_stop_string():
    lm, params = built()
    (free,) = beam_search(lm, params, PROMPTS[:1], VOCAB, num_beams=2, max_tokens=6)
    pair = tuple(free[0].tokens[1:3])
    given = dict(num_beams=2, max_tokens=6, stops_AV=pair_automaton(pair))
    (found,) = beam_search(lm, params, PROMPTS[:1], VOCAB, **given)
    assert free[0].tokens[:3] in [hypothesis.tokens for hypothesis in found]
    for hypothesis in found:
        assert ends_at(hypothesis.tokens, pair) == hypothesis.tokens


def test_repetition_is_penalised_from_the_prompt_on():
    """Greedy, token by token, against full passes whose logits are changed by hand."""
    lm, params = built()
    penalty, prompt = 1.8, PROMPTS[2]
    sampling = Sampling(temperature=0, repetition_penalty=penalty)
    found = generate(lm, params, PROMPTS, VOCAB, max_tokens=10, sampling=sampling)
    tokens = list(prompt)
    for _ in range(10):
        row = np.pad(tokens, (0, 40 - len(tokens)))[None].astype(np.int32)
        real = (np.arange(40) < len(tokens)).astype(np.int32)[None]
        batch = {"tokens": row, "positions": np.arange(40)[None] * real, "segments": real}
        logits = np.array(full_logits(lm, params, batch))[0, len(tokens) - 1]
        said = np.unique(tokens)
        logits[said] = np.where(logits[said] < 0, logits[said] * penalty, logits[said] / penalty)
        tokens.append(int(logits.argmax()))
        if tokens[-1] == VOCAB.eos:
            tokens.pop()
            break
    assert found[2] == tokens[len(prompt) :]
    plain = generate(lm, params, PROMPTS, VOCAB, max_tokens=10, sampling=Sampling(temperature=0))
    assert plain[2] != found[2]
