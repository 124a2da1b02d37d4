"""XLNet's second part: two texts that fill it, half of the time in a row; sep and cls in the order."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tests.objectives.rows import window
from tlx.base.errors import ConfigError
from tlx.objectives import plm
from tlx.objectives.shared import plm_pairs
from tlx.objectives.shared.base import ObjectiveSpec
from tlx.text import Vocabulary

VOCAB = Vocabulary(400)
# Ids from 290 on end a sentence; the text counts up from 10, the other from 110.
ENDS = np.arange(VOCAB.size) % 10 == 9
DRAWS = 20_000


def spec(length: int, **config) -> ObjectiveSpec:
    return ObjectiveSpec(plm.PLM(pairs=True, **config), length, VOCAB, None, ENDS)


def row_of(seed: int, length: int = 32, num_text: int | None = None, **config):
    this = spec(length, **config)
    reads = plm.OBJECTIVE.window_spec(this)
    size = reads.length if num_text is None else num_text
    text, other = 10 + np.arange(size), 110 + np.arange(reads.second_length)
    given = window(text, reads.length, second=window(other))
    return plm.OBJECTIVE.example(np.random.default_rng(seed), given, this), this, text


def while_longer_loses(a: int, b: int, room: int) -> tuple[int, int]:
    while a + b > room:
        if a > b:
            a -= 1
        else:
            b -= 1
    return a, b


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 70))
def test_the_longer_one_loses(a, b, room):
    assert plm_pairs.trimmed_sizes(a, b, room) == while_longer_loses(a, b, room)


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(24, 60))
def test_two_texts_fill_the_part(seed, length):
    row, this, text = row_of(seed, length)
    reuse_len = length // 2
    tokens, types = row["tokens"][reuse_len:], row["types"][reuse_len:]
    assert np.array_equal(row["tokens"][:reuse_len], text[:reuse_len]) and not row["types"][:reuse_len].any()
    assert row["segments"].all() and np.array_equal(np.unique(types), [0, 1, 2])
    (seps,) = np.nonzero(tokens == VOCAB.sep)
    assert len(seps) == 2 and tokens[-1] == VOCAB.cls and seps[1] == len(tokens) - 2
    a, b = tokens[: seps[0]], tokens[seps[0] + 1 : seps[1]]
    assert np.array_equal(a, text[reuse_len : reuse_len + len(a)]) and len(b) >= 1
    assert np.array_equal(b, np.arange(b[0], b[0] + len(b)))
    assert np.array_equal(types, [0] * (len(a) + 1) + [1] * (len(b) + 1) + [2])
    if b[0] < 110:
        # B begins with a sentence; A ends there, or lost its end as the longer one.
        assert ENDS[b[0] - 1] and (b[0] == a[-1] + 1 or (b[0] > a[-1] and len(a) >= len(b) - 1))


def split_by_definition(text, room):
    """All (A, B) of the official loop in which B follows, with what is too much cut from the longer one's end."""
    end = 1
    cuts = []
    while end < len(text):
        if ENDS[text[end - 1]]:
            if end >= room:
                break
            cuts.append(end)
        end += 1
    pairs = set()
    for cut in cuts:
        a_size, b_size = while_longer_loses(cut, end - cut, room)
        pairs.add((tuple(text[:a_size]), tuple(text[cut : cut + b_size])))
    return pairs


@pytest.mark.parametrize("room", [24, 26, 30, 31, 58])
def test_where_the_second_text_follows_it_is_split_as_there(room):
    """Of 60 tokens with sentences of 10: where A is longer than B and the last sentence too long, A loses its end."""
    text, other, this, rng = 10 + np.arange(60), 110 + np.arange(100), spec(128), np.random.default_rng(0)
    found = {tuple(map(tuple, plm_pairs.two_texts(rng, text, other, room, this))) for _ in range(300)}
    followed = {(a, b) for a, b in found if b[0] < 110}
    assert followed == split_by_definition(text, room)
    gaps = {(a, b) for a, b in followed if b[0] != a[-1] + 1}
    assert bool(gaps) == (room % 10 != 0)
    older = spec(128, pair_ends="part")
    for _ in range(100):
        a, b = plm_pairs.two_texts(rng, text[:room], other, room, older)
        assert b[0] >= 110 or b[0] == a[-1] + 1


def widened_by_definition(text, start, size):
    """The official loops: to the left and to the right while both neighbours are of one sentence."""
    sentence = np.concatenate([[0], np.cumsum(ENDS[text[:-1]])])
    end = start + size
    while start > 0 and sentence[start - 1] == sentence[start]:
        start -= 1
    while end < len(text) and sentence[end - 1] == sentence[end]:
        end += 1
    return text[start:end]


def test_a_text_from_elsewhere_is_widened_to_whole_sentences():
    """For each first token and size; a window has all that is read of the text around it."""
    room, this = 24, spec(54)
    reads = plm.OBJECTIVE.window_spec(this)
    assert reads.second_length == 3 * room
    # Sentences of 10, 3 and 17 tokens, and so on.
    text = np.array([n for n in range(10, 170) if n % 30 not in (20, 21, 22, 23, 24, 25, 26)] * 2)
    for start in range(room, len(text) - 2 * room):
        other = text[start - room : start + 2 * room]
        for size in (1, 2, 9, 10, 23):
            expected = widened_by_definition(text, start, size)
            found = plm_pairs.widened(other, room, size, this, backwards=False)
            assert np.array_equal(found, expected), (start, size)


@pytest.mark.parametrize("pair_ends", ["sentence", "part"])
def test_the_next_row_begins_after_the_reused_part(pair_ends):
    reads = plm.OBJECTIVE.window_spec(spec(64, pair_ends=pair_ends, reuse_len=40))
    assert reads.length - reads.overlap == 40


def test_half_of_the_second_texts_follow_the_first():
    this, rng = spec(128), np.random.default_rng(0)
    text, other = 10 + np.arange(61), 110 + np.arange(122)
    followed, sizes = 0, np.zeros(61, int)
    for _ in range(DRAWS):
        a, b = plm_pairs.two_texts(rng, text, other, 61, this)
        assert len(a) + len(b) == 61
        if b[0] < 110:
            followed += 1
            sizes[len(a)] += 1
        else:
            assert ENDS[b[0] - 1]  # a sentence begins
    assert stats.binomtest(followed, DRAWS).pvalue > 1e-3
    cuts = np.flatnonzero(sizes)
    assert cuts.tolist() == [10, 20, 30, 40, 50, 60]
    assert stats.chisquare(sizes[cuts]).pvalue > 1e-3


def test_backwards_a_sentence_begins_with_its_end():
    """Text that counts down: A ends before a token that ends a sentence, with which B begins."""
    this, rng = spec(128), np.random.default_rng(0)
    text, other = (10 + np.arange(61))[::-1], (110 + np.arange(122))[::-1]
    followed, sizes = 0, np.zeros(61, int)
    for _ in range(4000):
        a, b = plm_pairs.two_texts(rng, text, other, 61, this, backwards=True)
        assert len(a) + len(b) == 61 and ENDS[b[0]]
        if b[0] < 110:
            followed += 1
            assert b[0] == a[-1] - 1
            sizes[len(a)] += 1
    assert stats.binomtest(followed, 4000).pvalue > 1e-3
    cuts = np.flatnonzero(sizes)
    assert cuts.tolist() == [1, 11, 21, 31, 41, 51]
    assert stats.chisquare(sizes[cuts]).pvalue > 1e-3


def test_without_an_end_of_a_sentence_the_other_text_follows():
    this = ObjectiveSpec(plm.PLM(pairs=True), 64, VOCAB, None, np.zeros(VOCAB.size, bool))
    a, b = plm_pairs.two_texts(np.random.default_rng(0), 10 + np.arange(29), 110 + np.arange(29), 29, this)
    assert (len(a), len(b)) == while_longer_loses(29, 29, 29) and b[0] == 110


def hidden_by_definition(order, is_masked, is_functional, reuse_len):
    """`perm_mask` of the official reader with sep and cls, entry by entry: 1 where i must not see j."""
    length = len(order)
    hidden = np.zeros((length, length), int)
    for i, j in itertools.product(range(length), repeat=2):
        if i < reuse_len <= j:
            hidden[i, j] = 1
        elif (i < reuse_len) == (j < reuse_len):
            rev = [order[k] if is_masked[k] or is_functional[k] else -1 for k in (i, j)]
            is_target = is_masked[i] and not is_functional[i]
            self_rev_i = rev[0] if is_target else rev[0] + 1
            hidden[i, j] = int(self_rev_i <= rev[1] and (is_masked[j] or is_functional[j]))
    return hidden


@settings(deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(["ngram", "cut"]))
def test_sep_and_cls_are_in_the_order_and_no_targets(seed, targets):
    row, this, _ = row_of(seed, targets=targets, num_predict=9)
    functional = np.isin(row["tokens"], (VOCAB.sep, VOCAB.cls))
    chosen = row["target_positions"][row["weights"] > 0]
    assert not functional[chosen].any()
    np.testing.assert_array_equal(row["targets"][: len(chosen)], row["tokens"][chosen])
    is_masked = np.zeros(len(functional), bool)
    is_masked[chosen] = True
    order = np.random.default_rng(seed + 1).permutation(len(functional))
    kept = is_masked | functional
    order[kept] = row["rank"][kept]
    if targets == "cut":
        order, is_masked = row["rank"], ~functional  # every token is in the order
    hidden = hidden_by_definition(order, is_masked, functional, len(functional) // 2)
    sees = row["query_rank"][:, None] > row["rank"][None, :]
    np.testing.assert_array_equal(hidden == 0, sees)


def test_padding_has_no_second_part():
    row, *_ = row_of(0, num_text=16)
    assert not row["segments"][16:].any() and not row["types"].any() and row["segments"][:16].all()
    row, *_ = row_of(0, num_text=17)
    assert row["tokens"][-1] == VOCAB.cls and row["segments"].all()


def test_a_part_too_short_for_two_texts_is_an_error():
    with pytest.raises(ConfigError, match="sep, sep and cls leave 1 for two texts"):
        plm.OBJECTIVE.window_spec(spec(8, num_predict=2))
