"""Masks by recipe and unit: RoBERTa's counts, BERT's whole words, ALBERT's n-grams, copies."""

import collections
import dataclasses

import numpy as np
import pytest
from scipy import stats

from tests.data import corpus
from tlx.base.errors import ConfigError
from tlx.objectives import mlm
from tlx.objectives.shared import masking
from tlx.objectives.shared.base import ObjectiveSpec
from tlx.objectives.shared.masking import Masking
from tlx.text import Vocabulary

VOCAB = Vocabulary(60, num_sentinels=8)
DRAWS = 20_000
# Ids 7..29 begin a word, 30..51 continue one.
STARTS_WORD = (np.arange(60) < 30) | VOCAB.special


def spec(config: Masking, length: int = 32) -> ObjectiveSpec:
    return ObjectiveSpec(config, length, VOCAB, STARTS_WORD)


def draws(tokens: np.ndarray, config: Masking, seed: int = 0, count: int = DRAWS) -> list[tuple[int, ...]]:
    rng, this = np.random.default_rng(seed), spec(config)
    return [tuple(masking.chosen_positions(rng, tokens, this, config).tolist()) for _ in range(count)]


def same_distribution(a: list, b: list) -> bool:
    first, second = collections.Counter(a), collections.Counter(b)
    common = [key for key in first | second if first[key] + second[key] >= 20]
    table = np.array([[counter[key] for key in common] for counter in (first, second)])
    rest = np.array([[len(a)], [len(b)]]) - table.sum(axis=1, keepdims=True)
    table = np.hstack([table, rest]) if rest.sum() else table
    return stats.chi2_contingency(table).pvalue > 1e-3


def test_roberta_rounds_by_chance_and_masks_any_position():
    """32 tokens: 4.8 targets, 4 or 5, and cls, sep and eos among them; BERT would always take 5."""
    tokens = np.r_[VOCAB.cls, np.full(20, 9), VOCAB.eos, np.full(9, 9), VOCAB.sep].astype(np.int32)
    chosen = draws(tokens, Masking(recipe="roberta"))
    sizes = np.bincount([len(c) for c in chosen], minlength=7)
    assert sizes.sum() == sizes[4] + sizes[5]
    assert stats.binomtest(int(sizes[5]), DRAWS, 0.8).pvalue > 1e-3
    assert stats.chisquare(np.bincount(np.concatenate(chosen), minlength=32)).pvalue > 1e-3
    assert masking.num_predictions(32, Masking(recipe="roberta")) == 5


def test_robertas_random_ids_are_ordinary_tokens():
    rng, tokens = np.random.default_rng(1), np.full(4000, 9, np.int32)
    config = Masking(recipe="roberta", mask_token_fraction=0.0, random_token_fraction=1.0)
    shown = masking.hide(rng, tokens, np.arange(4000), spec(config), config)
    counts = np.bincount(shown, minlength=60)
    assert counts[VOCAB.special].sum() == 0 and stats.chisquare(counts[~VOCAB.special]).pvalue > 1e-3


def words_of(tokens: np.ndarray) -> list[list[int]]:
    """Places of each word, by the definition: from a start to the next, special tokens belonging to none."""
    words: list[list[int]] = []
    for place, token in enumerate(tokens.tolist()):
        if VOCAB.special[token]:
            continue
        if STARTS_WORD[token] or not words or words[-1][-1] != place - 1:
            words.append([])
        words[-1].append(place)
    return words


TEXT = np.array([5, 10, 31, 32, 11, 12, 33, 6, 34, 13, 14, 35, 15, 6], np.int32)


def whole_words(rng: np.random.Generator, words: list[list[int]], count: int, stop: bool = False):
    """BERT's loop as it is described, one word after the other."""
    taken: list[int] = []
    for index in rng.permutation(len(words)):
        if len(taken) == count:
            break
        if len(taken) + len(words[index]) <= count:
            taken += words[index]
        elif stop:
            break
    return tuple(sorted(taken))


def test_whole_words_are_taken_or_left():
    config = Masking(unit="word", masking_rate=0.36)
    words = words_of(TEXT)
    assert [len(word) for word in words] == [3, 1, 2, 1, 1, 2, 1]
    assert masking.num_predictions(len(TEXT), config) == 5
    rng = np.random.default_rng(2)
    chosen = draws(TEXT, config)
    assert all(set(word) <= set(c) or not set(word) & set(c) for c in chosen[:500] for word in words)
    assert same_distribution(chosen, [whole_words(rng, words, 5) for _ in range(DRAWS)])
    # The nearest wrong variant stops at the first word that does not fit.
    assert not same_distribution(chosen, [whole_words(rng, words, 5, stop=True) for _ in range(DRAWS)])


def ngrams(rng: np.random.Generator, words: list[list[int]], count: int, weights: list[float]):
    """ALBERT's loop as it is described, in words."""
    taken: set[int] = set()
    for first in rng.permutation(len(words)):
        if len(taken) >= count:
            break
        n = int(rng.choice([1, 2, 3], p=np.array(weights) / sum(weights)))
        places = sum(words[first : first + n], [])
        while n > 1 and len(taken) + len(places) > count:
            n -= 1
            places = sum(words[first : first + n], [])
        if len(taken) + len(places) <= count and not taken & set(places):
            taken |= set(places)
    return tuple(sorted(taken))


@pytest.mark.slow
def test_ngrams_of_whole_words_have_alberts_lengths():
    config = Masking(unit="ngram", masking_rate=0.36)
    words, chosen = words_of(TEXT), draws(TEXT, config)
    for weights, equal in (([1, 1 / 2, 1 / 3], True), ([1, 1, 1], False), ([1 / 3, 1 / 2, 1], False)):
        rng = np.random.default_rng(3)
        expected = [ngrams(rng, words, 5, weights) for _ in range(DRAWS)]
        assert same_distribution(chosen, expected) == equal


def test_ngram_lengths_are_6_3_2_of_11():
    """One n-gram of single-token words, with room for it."""
    rng = np.random.default_rng(4)
    begins = np.arange(1001)
    sizes = [np.diff(np.flatnonzero(np.diff(masking._ngrams(rng, begins, 40, 3)) > 1)) for _ in range(300)]
    share = np.bincount(np.concatenate(sizes), minlength=4)[1:4]
    # Neighbouring n-grams sometimes join or collide: a loose bound, far from 1/3 each.
    assert np.abs(share / share.sum() - np.array([6, 3, 2]) / 11).max() < 0.04


def test_deberta_masks_one_token_of_each_window_of_six():
    """Five of 32 tokens: one of each window of the 30 ordinary ones; the last window may be shorter."""
    tokens = np.r_[VOCAB.cls, np.full(30, 9), VOCAB.sep].astype(np.int32)
    chosen = np.array(draws(tokens, Masking(unit="window"), count=4000)) - 1
    assert np.array_equal(chosen // 6, np.tile(np.arange(5), (4000, 1)))
    assert stats.chisquare(np.bincount(chosen.ravel(), minlength=30)).pvalue > 1e-3
    short = tokens[:9]  # 8 ordinary tokens: of .15 a window and one target, of .2 two of 5 and 3
    assert {len(c) for c in draws(short, Masking(unit="window"), count=50)} == {1}
    both = {len(c) for c in draws(short, Masking(unit="window", masking_rate=0.2), count=50)}
    assert both == {2}


def test_special_tokens_are_never_targets_of_any_unit():
    for unit in ("token", "word", "ngram"):
        chosen = draws(TEXT, Masking(unit=unit, masking_rate=1.0), count=50)
        ordinary = set(np.flatnonzero(~VOCAB.special[TEXT]))
        assert all(ordinary.issuperset(c) and (unit == "ngram" or len(c) == len(ordinary)) for c in chosen)


def test_masks_are_new_each_epoch_or_one_of_the_copies(tmp_path):
    cache = corpus.make_cache(tmp_path / "cache", [300])

    def masks(copies: int, epoch: int, batch_size: int) -> list:
        this = ObjectiveSpec(mlm.MLM(copies=copies), 32, corpus.VOCAB)
        pipeline = corpus.make_pipeline(
            [cache],
            mlm.OBJECTIVE.window_spec(this),
            batch_size,
            example=lambda rng, window, _: mlm.OBJECTIVE.example(rng, window, this),
        )
        assert pipeline.num_windows == 10
        rows = [divmod(row, batch_size) for row in range(10 * epoch, 10 * (epoch + 1))]
        batches = [pipeline.batch(k, [b]) for k, b in rows]
        return [(batch["positions"][0].tolist(), batch["target_positions"][0].tolist()) for batch in batches]

    first = masks(0, 0, 1)
    assert sorted(masks(3, 0, 1)) == sorted(masks(3, 3, 5)) != sorted(masks(3, 1, 1))
    assert first == masks(0, 0, 1) == masks(0, 0, 5) != masks(0, 1, 1)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"recipe": "roberta", "unit": "word"}, "objective.unit = 'word'"),
        ({"copies": -1}, "objective.copies = -1"),
    ],
)
def test_wrong_choices_are_named(change, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(mlm.MLM(), **change).validate()
