"""BART's noise: each kind alone by its distribution, all together, and mBART's languages."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tests.objectives.rows import decoder, encoder, targets, window
from tlx.base.errors import ConfigError
from tlx.objectives import bart, mbart
from tlx.objectives.bart import BART
from tlx.objectives.mbart import MBART
from tlx.objectives.shared.base import ObjectiveSpec
from tlx.text import Vocabulary
from tlx.text.bytes_tokenizer import BytesTokenizer

VOCAB = Vocabulary(1000)
DRAWS = 20_000
NOTHING = BART(mask_fraction=0.0, permute_fraction=0.0)
STOP = 50  # the full stop of these texts


def spec(length: int, config: BART, words: np.ndarray | None = None) -> ObjectiveSpec:
    stops = np.arange(VOCAB.size) == STOP
    return ObjectiveSpec(config, length, VOCAB, words, stops, ("en", "ko"))


def with_special_tokens(text) -> np.ndarray:
    return np.array([VOCAB.bos, *text, VOCAB.eos], np.int32)


def test_without_noise_the_text_is_copied():
    row = bart.OBJECTIVE.example(np.random.default_rng(0), window(np.arange(20, 40), 30), spec(32, NOTHING))
    whole = with_special_tokens(range(20, 40)).tolist()
    assert encoder(row) == targets(row) == whole and decoder(row) == [VOCAB.eos, *whole[:-1]]


def test_span_lengths_are_poissons_and_fill_the_budget():
    """Empty spans included; only the last is trimmed. A fixed length or a geometric one fails."""
    rng, first = np.random.default_rng(0), np.zeros(64, int)
    for _ in range(DRAWS):
        lengths = bart.span_lengths(rng, 30, 3.0)
        assert lengths.sum() == 30 and lengths[-1] > 0
        first[lengths[0]] += 1
    expected = stats.poisson.pmf(np.arange(12), 3.0) * DRAWS
    pairs = [np.append(first[:11], first[11:].sum()), np.append(expected[:11], DRAWS - expected[:11].sum())]
    assert stats.chisquare(*pairs).pvalue > 1e-3
    # The distribution function ends where a mass falls below 1e-7: 18 entries.
    assert len(bart._poisson_cumulative(3.0)) + 1 == 18


def walked(
    rng: np.random.Generator, num_words: int, share: float = 0.3, mean: float = 3.0
) -> tuple[int, int]:
    """(words gone, masks left) by walking each span word by word over a text of one-token words."""
    lengths = list(rng.poisson(mean, 400))
    total, spans = 0, []
    while total < math.ceil(share * num_words):
        spans.append(min(lengths.pop(), math.ceil(share * num_words) - total))
        total += spans[-1]
    full = [size for size in spans if size]
    starts = rng.permutation(num_words)[: len(full)].tolist()
    swallowed = {i for start, size in zip(starts, full, strict=True) for i in range(start + 1, start + size)}
    swallowed &= set(range(num_words))
    masks = set(starts) - swallowed
    return len(masks | swallowed), len(masks) + len(spans) - len(full)


def test_infilling_takes_away_less_than_its_budget():
    """27.2% of 98 words at 30%, for spans run into each other; spans that keep apart would take 30.6%."""
    this, rng = spec(100, BART(permute_fraction=0.0, random_token_fraction=0.0)), np.random.default_rng(1)
    text, gone, masks = with_special_tokens(range(100, 198)), np.empty(4_000), np.empty(4_000)
    for i in range(4_000):
        read = bart.mask_spans(rng, text, this)
        gone[i] = 98 - np.count_nonzero(read >= 100)
        masks[i] = np.count_nonzero(read == VOCAB.mask)
        assert read[0] == VOCAB.bos and read[-1] == VOCAB.eos and gone[i] <= math.ceil(98 * 0.3)
    expected = np.array([walked(rng, 98) for _ in range(4_000)])
    for ours, theirs in zip((gone, masks), expected.T, strict=True):
        error = math.sqrt((ours.var() + theirs.var()) / 4_000)
        assert abs(ours.mean() - theirs.mean()) < 4 * error
    assert abs(gone.mean() / 98 - 0.272) < 0.002


def test_infilling_by_hand():
    """Spans of words: a word goes with all of its pieces, and one mask stands for a span."""
    words = np.ones(VOCAB.size, bool)
    words[600:] = False  # pieces that continue a word
    text = with_special_tokens([100, 600, 601, 101, 102, 602, 103])
    this, rng = (
        spec(9, BART(mask_fraction=0.25, permute_fraction=0.0, random_token_fraction=0.0), words),
        None,
    )
    seen = set()
    rng = np.random.default_rng(2)
    for _ in range(3_000):
        seen.add(tuple(bart.mask_spans(rng, text, this)[1:-1].tolist()))
    m, whole = VOCAB.mask, text[1:-1].tolist()
    one_word = {(m, 101, 102, 602, 103), (100, 600, 601, m, 102, 602, 103), (100, 600, 601, 101, m, 103)}
    one_word.add((100, 600, 601, 101, 102, 602, m))
    # A budget of one word: an empty span before it puts a mask anywhere, and then one word goes all the same.
    assert one_word <= seen
    for row in seen - one_word:
        assert row.count(m) >= 2 and set(row) - {m} < set(whole)


@pytest.mark.parametrize("spans", ["mask", "delete"])
def test_masking_and_deletion_take_single_words(spans):
    config = BART(spans=spans, permute_fraction=0.0, random_token_fraction=0.0)
    this, rng = spec(100, config), np.random.default_rng(3)
    text, counts = with_special_tokens(range(100, 198)), np.zeros(98)
    for _ in range(2_000):
        read = bart.mask_spans(rng, text, this)
        gone = ~np.isin(text[1:-1], read)
        counts += gone
        assert gone.sum() == 30 and len(read) == (100 if spans == "mask" else 70)
        kept = read[read >= 100]
        assert np.array_equal(kept, text[1:-1][~gone])
        if spans == "mask":
            assert np.array_equal(read[1:-1] == VOCAB.mask, gone)
    assert stats.chisquare(counts).pvalue > 1e-3  # every word as often


def test_a_tenth_of_the_masks_is_random():
    this, rng = spec(102, BART(spans="mask", permute_fraction=0.0)), np.random.default_rng(4)
    text = with_special_tokens(np.full(100, 500))
    seen = np.concatenate([bart.mask_spans(rng, text, this)[1:-1] for _ in range(1_000)])
    masks = np.count_nonzero(seen == VOCAB.mask)
    assert abs((30_000 - masks) / 30_000 - 0.1) < 4 * math.sqrt(0.09 / 30_000) + 1e-3


@pytest.mark.parametrize("draw", ["word", "token"])
def test_a_word_is_masked_or_random_as_a_whole(draw):
    """Words of three tokens: fairseq decides once a word; tokens one by one mix both in most random words."""
    words = np.arange(VOCAB.size) % 3 == 0
    config = BART(spans="mask", permute_fraction=0.0, random_token_fraction=0.5, mask_draw=draw)
    this, rng = spec(101, config, words), np.random.default_rng(6)
    text = with_special_tokens(range(102, 201))
    kinds = []
    for _ in range(200):
        read = bart.mask_spans(rng, text, this)[1:-1].reshape(33, 3)
        for row, original in zip(read, text[1:-1].reshape(33, 3), strict=True):
            if not np.array_equal(row, original):
                kinds.append(np.count_nonzero(row == VOCAB.mask))
    counts = np.bincount(kinds, minlength=4)
    if draw == "word":
        # A random id is the mask's own once in a thousand times.
        assert counts[1] + counts[2] < 0.01 * len(kinds) and len(kinds) == 200 * 10
        assert stats.binomtest(int(counts[3]), len(kinds), 0.5).pvalue > 1e-3
    else:
        assert counts[1] + counts[2] > len(kinds) / 2


def test_sentences_change_places_uniformly():
    """All orders of four, the last one without a full stop; of two full stops the second starts the next."""
    sentences = [(100, STOP), (101, 102, STOP), (STOP, 103, STOP), (104, 105)]
    text = with_special_tokens(sum(sentences, ()))
    this, rng = spec(32, dataclasses.replace(NOTHING, permute_fraction=1.0)), np.random.default_rng(5)
    counts: dict[tuple[int, ...], int] = {}
    for _ in range(DRAWS):
        read = bart.permute_sentences(rng, text, this)
        assert read[0] == VOCAB.bos and read[-1] == VOCAB.eos
        order = tuple(token for token in read.tolist() if token >= 100)
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 24 and stats.chisquare(list(counts.values())).pvalue > 1e-3
    joined = {sum((sentences[i] for i in order), ()) for order in ((0, 1, 2, 3), (3, 2, 1, 0))}
    seen = {tuple(bart.permute_sentences(rng, text, this)[1:-1].tolist()) for _ in range(1_000)}
    assert joined <= seen


def test_half_of_the_sentences_stay():
    this, rng = spec(32, dataclasses.replace(NOTHING, permute_fraction=0.5)), np.random.default_rng(6)
    text, moved = with_special_tokens([100, STOP, 101, STOP, 102, STOP, 103, STOP]), []
    for _ in range(4_000):
        read = bart.permute_sentences(rng, text, this)
        moved.append(np.count_nonzero(read[read >= 100] != np.arange(100, 104)))
    # Two are chosen: they change places or not.
    assert set(moved) == {0, 2} and abs(np.mean(moved) - 1.0) < 0.08


def test_rotation_keeps_the_ends_and_draws_its_offset_uniformly():
    config = dataclasses.replace(NOTHING, rotate_fraction=0.5)
    this, rng, text = spec(8, config), np.random.default_rng(7), with_special_tokens(range(100, 106))
    firsts = np.zeros(6, int)
    for _ in range(DRAWS):
        read = bart.add_noise(rng, text, this)
        assert read[0] == VOCAB.bos and read[-1] == VOCAB.eos
        firsts[read[1] - 100] += 1
    # Offsets 1..7: the first and the last of them rotate nothing, as in the official code.
    shares = np.array([0.5 + 0.5 * 2 / 7, *[0.5 / 7] * 5])
    assert stats.chisquare(firsts, shares * DRAWS).pvalue > 1e-3


def test_insertion_keeps_the_text():
    config = dataclasses.replace(NOTHING, insert_fraction=0.2, random_token_fraction=0.0)
    this = spec(30, config)
    length = bart.OBJECTIVE.window_spec(this).length
    row = bart.OBJECTIVE.example(np.random.default_rng(8), window(np.arange(100, 100 + length)), this)
    read = np.array(encoder(row))
    assert np.count_nonzero(read == VOCAB.mask) == math.ceil((length + 2) * 0.2)
    assert read[read != VOCAB.mask].tolist() == targets(row)


@settings(deadline=None, max_examples=200)
@given(
    text=st.lists(st.integers(7, 899), max_size=60),
    share=st.floats(0, 1),
    poisson_lambda=st.floats(0.5, 10),
    spans=st.sampled_from(bart.SPANS),
    seed=st.integers(0, 2**32),
)
def test_all_together_on_any_text(text, share, poisson_lambda, spans, seed):
    """The targets are the text; the encoder reads nothing but it and masks, at most once each, and fits."""
    config = BART("bart", share, spans, poisson_lambda, random_token_fraction=0.0, rotate_fraction=0.5)
    this = spec(62, config)
    row = bart.OBJECTIVE.example(np.random.default_rng(seed), window(np.array(text, np.int32), 60), this)
    if not text:
        assert not encoder(row) and not targets(row)
        return
    assert targets(row) == with_special_tokens(text).tolist()
    assert encoder(row)[0] == VOCAB.bos and encoder(row)[-1] == VOCAB.eos
    left = list(text)
    for token in encoder(row)[1:-1]:
        if token != VOCAB.mask:
            left.remove(token)


@pytest.mark.parametrize("text", ["모델은 글을 읽는다. 그리고 쓴다! 🙂👍🏽", "A b c.\nD e f? 🇰🇷"])
def test_the_text_comes_back_from_the_targets(text):
    tokenizer = BytesTokenizer()
    this = ObjectiveSpec.of(BART(), 128, tokenizer, ("",))
    row = bart.OBJECTIVE.example(
        np.random.default_rng(9), window(np.array(tokenizer.encode(text)), 126), this
    )
    assert tokenizer.decode(targets(row)) == text


def test_mbart_marks_the_language():
    """text, eos, language on both sides, and the decoder starts from the language (mBART's wrap)."""
    config = MBART(mask_fraction=0.0, permute_fraction=0.0)
    row = mbart.OBJECTIVE.example(
        np.random.default_rng(0), window(np.arange(20, 30), 14, 1), spec(16, config)
    )
    language = VOCAB.mark(1)
    whole = [*range(20, 30), VOCAB.eos, language]
    assert encoder(row) == targets(row) == whole
    assert decoder(row) == [language, *whole[:-1]]
    assert (MBART().mask_fraction, MBART().poisson_lambda) == (0.35, 3.5)
    noisy = mbart.OBJECTIVE.example(
        np.random.default_rng(0), window(np.arange(100, 198), 98, 0), spec(100, MBART())
    )
    assert encoder(noisy)[-2:] == [VOCAB.eos, VOCAB.mark(0)] and VOCAB.mask in encoder(noisy)


def test_mbarts_spans_are_longer_and_more():
    """Masks and words gone as with 35% in spans of 3.5 words, and neither as with BART's 30% nor its 3."""
    config = MBART(permute_fraction=0.0, random_token_fraction=0.0)
    this, rng = spec(200, config), np.random.default_rng(1)
    found = []
    for _ in range(2_000):
        read = mbart.OBJECTIVE.example(rng, window(np.arange(100, 298), 198), this)["encoder_tokens"]
        kept = np.count_nonzero((read >= 100) & (read < 298))  # the language's mark lies above
        found.append((198 - kept, np.count_nonzero(read == VOCAB.mask)))
    found = np.array(found)

    def far(share: float, mean: float) -> np.ndarray:
        """How many standard errors the means of both are away."""
        walks = np.array([walked(rng, 198, share, mean) for _ in range(2_000)])
        errors = np.sqrt((found.var(axis=0) + walks.var(axis=0)) / 2_000)
        return np.abs(found.mean(axis=0) - walks.mean(axis=0)) / errors

    assert far(0.35, 3.5).max() < 4 and far(0.3, 3.5).min() > 10 and far(0.35, 3.0)[1] > 10


def test_too_many_languages_are_an_error():
    many = dataclasses.replace(spec(16, MBART()), languages=tuple(f"l{i}" for i in range(101)))
    with pytest.raises(ConfigError, match="101 languages"):
        mbart.OBJECTIVE.window_spec(many)


@pytest.mark.parametrize(
    "config, field",
    [
        (BART(mask_fraction=1.2), "objective.mask_fraction = 1.2"),
        (BART(poisson_lambda=0.0), "objective.poisson_lambda = 0.0"),
    ],
)
def test_wrong_values_are_named(config, field):
    with pytest.raises(ConfigError, match=field):
        config.validate()
