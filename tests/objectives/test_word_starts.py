"""ALBERT's words on SentencePiece: a text without spaces is many words, not one that is too long to be hidden."""

import types

import numpy as np
import pytest

from tlx.objectives import sop
from tlx.objectives.shared import masking
from tlx.objectives.shared.base import ObjectiveSpec
from tlx.text import Vocabulary

SIZE = 160
FIRST = 10
# (piece, whether the released code lets a word begin with it); worked out by hand from its rule.
PIECES = [
    ("▁the", True),
    ("ing", False),
    ("Ing", False),
    ("'", True),
    ("'s", False),
    ("...", False),
    (".", True),
    ("€", True),
    ("7", True),
    ("é", True),
    ("naïve", True),
    ("学", True),
    ("▁학교", True),
    ("에서", True),
    ("<0xEA>", True),
    ("▁", True),
]


def tokenizer_of(pieces):
    vocab = Vocabulary(SIZE, num_sentinels=8)
    names = dict(enumerate(pieces, FIRST))
    return types.SimpleNamespace(
        vocab=vocab,
        piece=lambda index: names.get(index, "<pad>" if index < FIRST else "zz"),
        starts_word=np.array([names.get(i, "").startswith("▁") for i in range(SIZE)]) | vocab.special,
        ends_sentence=np.zeros(SIZE, bool),
    )


def spec_of(config, tokenizer):
    return ObjectiveSpec.of(config, 128, tokenizer, ("",))


def test_words_begin_as_in_the_released_code():
    tokenizer = tokenizer_of([piece for piece, _ in PIECES])
    found = spec_of(sop.SOP(), tokenizer).starts_word
    begins = [bool(found[index]) for index in range(FIRST, FIRST + len(PIECES))]
    assert dict(zip([piece for piece, _ in PIECES], begins, strict=True)) == dict(PIECES)
    assert found[tokenizer.vocab.special].all()


def test_other_vocabularies_keep_their_own_words():
    tokenizer = tokenizer_of(["学", "##生", "the"])
    assert spec_of(sop.SOP(), tokenizer).starts_word is tokenizer.starts_word


@pytest.mark.parametrize("unit", ["ngram", "word"])
def test_clauses_without_spaces_have_as_many_targets_as_others(unit):
    """128 tokens in clauses of 25 Chinese pieces: 19 targets; by white space every clause is one word of 25."""
    tokenizer = tokenizer_of(["▁我", *("学生是不了在有人大中国上来到时地们出就下年得")])
    clause = [FIRST, *np.random.default_rng(0).integers(FIRST + 1, FIRST + 20, 24)]
    row = np.array((clause * 6)[:128], np.int32)
    counts = {}
    for rule in ("albert", "tokenizer"):
        config = sop.SOP(unit=unit, word_rule=rule)
        spec = spec_of(config, tokenizer)
        rngs = [np.random.default_rng(seed) for seed in range(20)]
        counts[rule] = [len(masking.chosen_positions(rng, row, spec, config)) for rng in rngs]
    assert min(counts["albert"]) == 19
    assert max(counts["tokenizer"]) < 4
