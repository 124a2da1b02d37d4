"""From what a model reads and writes the text comes back: Korean, emoji, anything that Unicode has."""

import itertools

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.objectives import rows
from tests.objectives.test_span_corruption import rebuild
from tlx.objectives import TABLE, denoising
from tlx.objectives.shared.base import ObjectiveSpec
from tlx.objectives.ul2 import MODES
from tlx.text.bytes_tokenizer import BytesTokenizer

TOKENIZER = BytesTokenizer()
VOCAB = TOKENIZER.vocab
LANGUAGES = ("en", "ko")
LENGTH = 260
CODE = VOCAB.mark(1)

TEXTS = st.text(min_size=2, max_size=40).filter(lambda text: len(text.encode("utf-8", "ignore")) > 3)


def read(row) -> list[int]:
    """What a decoder alone reads."""
    return row["tokens"][row["segments"] > 0].tolist()


def from_prefix(row) -> list[int]:
    count = int(row["prefix"].sum())
    return read(row)[1:count] + rows.targets(row)


def from_ctrl(row) -> list[int]:
    assert read(row) == [CODE, *rows.targets(row)[:-1]]
    return rows.targets(row)


def from_bart(row) -> list[int]:
    written = rows.targets(row)
    assert rows.decoder(row) == [VOCAB.eos, *written[:-1]] and written[0] == VOCAB.bos
    return written[1:-1]


def from_mbart(row) -> list[int]:
    written = rows.targets(row)
    assert rows.encoder(row)[-1] == CODE and written[-2:] == [VOCAB.eos, CODE]
    assert rows.decoder(row) == [CODE, *written[:-1]]
    return written[:-2]


def from_mass(row) -> list[int]:
    begin, written = int(row["decoder_positions"][0]) + 1, rows.targets(row)
    whole = rows.encoder(row)
    whole[begin : begin + len(written)] = written
    return whole[1:-1]


def from_deshuffling(row) -> list[int]:
    assert sorted(rows.encoder(row)) == sorted(rows.targets(row))
    return rows.targets(row)[:-1]


def from_denoising(row) -> list[int]:
    """A sentinel of one side stands where the other has a run of text."""
    sides = [runs(rows.encoder(row)[:-1]), runs(rows.targets(row)[:-1])]
    turn, text = int(VOCAB.is_sentinel(rows.encoder(row)[0])), []
    while sides[turn]:
        text += sides[turn].pop(0)
        turn = 1 - turn
    assert not any(sides)
    return text


def runs(ids: list[int]) -> list[list[int]]:
    """What stands between sentinels."""
    alike = itertools.groupby(ids, key=VOCAB.is_sentinel)
    return [list(run) for sentinels, run in alike if not sentinels]


def from_ul2(row) -> list[int]:
    mode, *source = rows.encoder(row)
    if mode == VOCAB.mark(MODES.index("S")):
        return source[:-1] + rows.targets(row)[:-1]
    return rebuild(source, rows.targets(row), VOCAB)


REBUILT = {
    "bart": from_bart,
    "ctrl": from_ctrl,
    "denoising": from_denoising,
    "deshuffling": from_deshuffling,
    "mass": from_mass,
    "mbart": from_mbart,
    "prefix_lm": from_prefix,
    "ul2": from_ul2,
}


def row_of(name: str, ids: list[int], seed: int, config=None):
    objective = TABLE.load(name)
    spec = ObjectiveSpec.of(config or objective.config_class(), LENGTH, TOKENIZER, LANGUAGES)
    window = rows.window(np.array(ids, np.int32), objective.window_spec(spec).length, language=1)
    return objective.example(np.random.default_rng(seed), window, spec)


@pytest.mark.parametrize("name", REBUILT)
@settings(deadline=None, max_examples=40)
@given(text=TEXTS, seed=st.integers(0, 2**32))
@example(text="모델은 글을 읽고 씁니다.", seed=0)
@example(text="👩‍👩‍👧‍👦 and 👍🏽, é ≠ é\r\n\x00", seed=1)
def test_the_text_comes_back(name, text, seed):
    ids = list(TOKENIZER.encode(text))
    # A causal row begins with a token of context that the window before has read.
    given_ids = [VOCAB.eos, *ids] if name == "prefix_lm" else ids
    assert TOKENIZER.decode(REBUILT[name](row_of(name, given_ids, seed))) == TOKENIZER.decode(ids) == text


@pytest.mark.parametrize("style", ("bert", "mask", "drop"))
@settings(deadline=None, max_examples=30)
@given(text=TEXTS, seed=st.integers(0, 2**32))
def test_the_other_styles_of_denoising_lose_nothing(style, text, seed):
    ids = list(TOKENIZER.encode(text))
    row = row_of("denoising", ids, seed, denoising.Denoising(style=style))
    if style == "drop":
        assert sorted(rows.encoder(row)[:-1] + rows.targets(row)[:-1]) == sorted(ids)
    else:
        assert TOKENIZER.decode(rows.targets(row)[:-1]) == text


@settings(deadline=None, max_examples=40)
@given(source=TEXTS, target=TEXTS)
def test_both_texts_of_a_pair_come_back(source, target):
    spec = ObjectiveSpec.of(
        TABLE.load("text_to_text").config_class(mark_target=True), LENGTH, TOKENIZER, LANGUAGES
    )
    ids = [[*TOKENIZER.encode(text), VOCAB.eos] for text in (source, target)]
    other = rows.window(np.array(ids[1], np.int32), LENGTH, language=1)
    row = TABLE.load("text_to_text").example(None, rows.window(np.array(ids[0]), LENGTH, 0, other), spec)
    assert rows.encoder(row)[0] == CODE and TOKENIZER.decode(rows.encoder(row)[1:-1]) == source
    assert TOKENIZER.decode(rows.targets(row)[:-1]) == target
