"""The n-gram baselines against a plain dictionary implementation, and as probabilities."""

import collections
import math
import time

import numpy as np
import pytest

from tlx.base.errors import DataError
from tlx.evaluation import ngram

V = 12


def corpus(seed: int, num_documents: int = 60, longest: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Documents from a random Markov chain with a long tail, one of them empty and one of a single token."""
    rng = np.random.default_rng(seed)
    table = rng.dirichlet(np.full(V, 0.2), size=(V, V))
    documents = [[], [3]]
    for _ in range(num_documents):
        document = [int(rng.integers(V)), int(rng.integers(V))]
        for _ in range(int(rng.integers(0, longest))):
            document.append(int(rng.choice(V, p=table[document[-2], document[-1]])))
        documents.append(document)
    offsets = np.cumsum([0] + [len(document) for document in documents])
    return np.concatenate([np.array(d, np.int32) for d in documents]), offsets


class Dictionary:
    """The same model written with dictionaries, one n-gram at a time."""

    def __init__(self, tokens: np.ndarray, offsets: np.ndarray):
        trigrams, bigrams, unigrams = (collections.Counter() for _ in range(3))
        for start, end in zip(offsets[:-1], offsets[1:], strict=True):
            sentence = ["<s>", *(int(token) for token in tokens[start:end])]
            trigrams.update(zip(sentence, sentence[1:], sentence[2:], strict=False))
            bigrams.update([tuple(sentence[:2])] if len(sentence) > 1 else [])
        bigrams.update((v, w) for (_, v, w) in trigrams)
        unigrams.update((w,) for (_, w) in bigrams)
        self.tables = {1: unigrams, 2: bigrams, 3: trigrams}
        self.discounts = {n: ngram.discounts(np.array(list(t.values()))) for n, t in self.tables.items()}

    def prob(self, history: tuple, token: int) -> float:
        if len(history) == 3:
            raise AssertionError
        below = self.prob(history[1:], token) if history else 1 / V
        order = len(history) + 1
        seen = {gram: count for gram, count in self.tables[order].items() if gram[:-1] == history}
        total = sum(seen.values())
        if not total:
            return below
        discount = {g: self.discounts[order][min(count, 3) - 1] for g, count in seen.items()}
        gram = (*history, token)
        alpha = (seen[gram] - discount[gram]) / total if gram in seen else 0.0
        return alpha + sum(discount.values()) / total * below


def test_trigram_equals_dictionary_implementation():
    train, held_out = corpus(0), corpus(1, num_documents=8)
    model, judge = ngram.fit_trigram(*train, V), Dictionary(*train)
    expected = []
    for start, end in zip(held_out[1][:-1], held_out[1][1:], strict=True):
        sentence = ["<s>", *(int(token) for token in held_out[0][start:end])]
        expected += [
            math.log(judge.prob(tuple(sentence[max(0, i - 2) : i]), sentence[i]))
            for i in range(1, len(sentence))
        ]
    np.testing.assert_allclose(model.log_probs(*held_out), expected, rtol=1e-12)


def test_discounts_are_those_of_the_paper():
    counts = np.repeat([1, 2, 3, 4, 9], [40, 20, 10, 6, 5])
    y = 40 / 80
    assert ngram.discounts(counts) == (
        1 - 2 * y * 20 / 40,
        2 - 3 * y * 10 / 20,
        3 - 4 * y * 6 / 10,
    )
    assert ngram.discounts(np.array([5, 6])) == ngram.FALLBACK_DISCOUNTS


@pytest.mark.parametrize("size", [1, 60])
def test_probabilities_sum_to_one(size):
    tokens, offsets = corpus(2, num_documents=size)
    model = ngram.fit_trigram(tokens, offsets, V)
    rng = np.random.default_rng(0)
    contexts = [(-1, V), (V, int(tokens[0]))] + [tuple(rng.integers(V, size=2)) for _ in range(40)]
    for first, second in contexts:
        probs = model.probs(np.full(V, first), np.full(V, second), np.arange(V))
        assert probs.min() > 0
        assert probs.sum() == pytest.approx(1, abs=1e-12)
    assert np.exp(ngram.fit_unigram(tokens, V).log_prob_V).sum() == pytest.approx(1, abs=1e-12)


def test_documents_do_not_see_each_other():
    tokens, offsets = corpus(3)
    model = ngram.fit_trigram(tokens, offsets, V)
    pairs = zip(offsets[:-1], offsets[1:], strict=True)
    alone = [model.log_probs(tokens[start:end], np.array([0, end - start])) for start, end in pairs]
    np.testing.assert_array_equal(model.log_probs(tokens, offsets), np.concatenate(alone))


def test_trigram_beats_unigram_in_bits_per_byte():
    tokens, offsets = corpus(4, num_documents=400)
    cut = offsets[300]
    train, held_out = (tokens[:cut], offsets[:301]), (tokens[cut:], offsets[300:] - cut)
    num_bytes_V = np.arange(V)
    figures = [
        ngram.bits_per_byte(model.log_probs(*held_out), held_out[0], num_bytes_V)
        for model in (ngram.fit_unigram(train[0], V), ngram.fit_trigram(*train, V))
    ]
    assert figures[1] < 0.8 * figures[0]
    nats = -ngram.fit_unigram(train[0], V).log_probs(held_out[0]).sum()
    assert figures[0] == pytest.approx(nats / math.log(2) / held_out[0].sum())


def test_bad_tokens_are_refused():
    with pytest.raises(DataError, match="outside the vocabulary of 12"):
        ngram.fit_unigram(np.array([1, 12]), V)
    with pytest.raises(DataError, match="no tokens"):
        ngram.fit_trigram(np.zeros(0, np.int32), np.array([0]), V)


@pytest.mark.slow
def test_speed_at_the_size_of_the_quickstart():
    rng = np.random.default_rng(0)
    words = np.minimum(rng.zipf(1.2, 3_370_000) - 1, 4095).astype(np.int32)
    offsets = np.arange(0, 3_000_001, 5_000)
    started = time.perf_counter()
    model = ngram.fit_trigram(words[:3_000_000], offsets, 4096)
    model.log_probs(words[3_000_000:], np.array([0, 370_000]))
    assert time.perf_counter() - started < 15
