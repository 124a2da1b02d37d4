"""Count-based baselines on token ids: add-one unigram and interpolated modified Kneser-Ney trigram.

Baselines of a trained model, from the same tokens and in the same unit. Documents are a flat int array of
tokens and int offsets [num_documents + 1]; no context crosses a boundary.
"""

import math
from typing import NamedTuple

import numpy as np

from tlx.base.errors import ConfigError, DataError

# Used if the counts of counts give no discounts (no n-gram of that order occurs once, ...).
FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)


class Unigram(NamedTuple):
    """Add-one token frequencies."""

    log_prob_V: np.ndarray
    """Natural logarithm of each token's probability, float64 [V]."""

    def log_probs(self, tokens: np.ndarray, offsets: np.ndarray | None = None) -> np.ndarray:
        """Return the log-probability of each token, float64 [num_tokens]; `offsets` is not used."""
        return self.log_prob_V[tokens]


class Trigram(NamedTuple):
    """Interpolated modified Kneser-Ney, three discounts per order (Chen & Goodman 1998, section 3).

    p(w | u v) = alpha(u v w) + gamma(u v) p(w | v), and so on down to the uniform distribution. n-grams
    are sorted integer keys in base V + 1; the digit V stands for the beginning of a document.
    """

    unigram_V: np.ndarray
    """p(w), interpolated with 1 / V, float64 [V]."""
    bigram_keys: np.ndarray
    """Sorted keys of the bigrams, int64."""
    bigram_alpha: np.ndarray
    """alpha of each bigram."""
    bigram_gamma: np.ndarray
    """gamma of each one-token context, dense [V + 1]."""
    trigram_keys: np.ndarray
    """Sorted keys of the trigrams, int64."""
    trigram_alpha: np.ndarray
    """alpha of each trigram."""
    context_keys: np.ndarray
    """Sorted keys of the two-token contexts, int64."""
    context_gamma: np.ndarray
    """gamma of each two-token context."""

    def log_probs(self, tokens: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """Return the log-probability of each token given its document so far, float64 [num_tokens]."""
        first_n, second_n = _histories(tokens, offsets, len(self.unigram_V))
        return np.log(self.probs(first_n, second_n, tokens))

    def probs(self, first_n: np.ndarray, second_n: np.ndarray, token_n: np.ndarray) -> np.ndarray:
        """Compute p(token | first second), float64 [n].

        Args:
            first_n: Tokens two positions before, [n]; -1 where the document begins with `second`.
            second_n: Tokens one position before, [n]; V for the beginning itself, with -1 as first.
            token_n: The tokens, [n].

        Returns:
            Probabilities, float64 [n].
        """
        base = len(self.unigram_V) + 1
        second_n = second_n.astype(np.int64)
        p_n = self.unigram_V[token_n]
        p_n = _find(self.bigram_keys, self.bigram_alpha, second_n * base + token_n, 0.0) + (
            self.bigram_gamma[second_n] * p_n
        )
        context_n = np.where(first_n < 0, -1, first_n.astype(np.int64) * base + second_n)
        keys_n = np.where(first_n < 0, -1, context_n * base + token_n)
        gamma_n = _find(self.context_keys, self.context_gamma, context_n, 1.0)
        return _find(self.trigram_keys, self.trigram_alpha, keys_n, 0.0) + gamma_n * p_n


def fit_unigram(tokens: np.ndarray, vocab_size: int) -> Unigram:
    """Fit add-one frequencies to `tokens`."""
    _check(tokens, vocab_size)
    counts_V = np.bincount(tokens, minlength=vocab_size)
    return Unigram(np.log((counts_V + 1.0) / (len(tokens) + vocab_size)))


def fit_trigram(tokens: np.ndarray, offsets: np.ndarray, vocab_size: int) -> Trigram:
    """Fit a trigram model; about 1 s and 60 bytes per token for a few million tokens.

    A document's first token is predicted from its beginning alone, the second from the beginning and the
    first. Lower orders count the distinct tokens that precede an n-gram, and plain occurrences at the
    beginning of documents, which no token precedes.

    Args:
        tokens: Token ids of all documents, int [num_tokens].
        offsets: Start of each document and the end of the last, int [num_documents + 1].
        vocab_size: V.

    Returns:
        The model.

    Raises:
        ConfigError: vocab_size is too large for the integer keys.
        DataError: there are no tokens, or some are outside the vocabulary.
    """
    _check(tokens, vocab_size)
    base = vocab_size + 1
    first_n, second_n = _histories(tokens, offsets, vocab_size)
    inner_n = first_n >= 0
    bigrams_n = second_n * base + tokens
    trigram_keys, trigram_counts = np.unique(
        first_n[inner_n] * base**2 + bigrams_n[inner_n], return_counts=True
    )
    begins_keys, begins_counts = np.unique(bigrams_n[~inner_n], return_counts=True)
    preceded_keys, preceded_counts = np.unique(trigram_keys % base**2, return_counts=True)
    # Keys that begin with the digit V are the largest, so the concatenation stays sorted.
    bigram_keys = np.concatenate([preceded_keys, begins_keys])
    bigram_counts = np.concatenate([preceded_counts, begins_counts])
    unigram_counts_V = np.bincount(bigram_keys % base, minlength=vocab_size)

    alpha_V, _, gamma = _discounted(np.zeros(vocab_size, np.int64), unigram_counts_V)
    bigram_alpha, bigram_contexts, gammas = _discounted(bigram_keys // base, bigram_counts)
    bigram_gamma = np.ones(base)
    bigram_gamma[bigram_contexts] = gammas
    trigram_alpha, context_keys, context_gamma = _discounted(trigram_keys // base, trigram_counts)
    return Trigram(
        unigram_V=alpha_V + gamma / vocab_size,
        bigram_keys=bigram_keys,
        bigram_alpha=bigram_alpha,
        bigram_gamma=bigram_gamma,
        trigram_keys=trigram_keys,
        trigram_alpha=trigram_alpha,
        context_keys=context_keys,
        context_gamma=context_gamma,
    )


def bits_per_byte(log_probs_n: np.ndarray, tokens: np.ndarray, num_bytes_V: np.ndarray) -> float:
    """Compute the negative sum of log2 probabilities divided by the bytes of the text.

    Args:
        log_probs_n: Natural log-probability of each token, [n].
        tokens: Token ids, int [n].
        num_bytes_V: Bytes of each token's text, [V].

    Returns:
        Bits per byte.

    Raises:
        DataError: the tokens stand for no bytes.
    """
    total = int(num_bytes_V[tokens].sum(dtype=np.int64))
    if total == 0:
        raise DataError("bits per byte of tokens that stand for no text")
    return float(-log_probs_n.sum() / math.log(2) / total)


def discounts(counts: np.ndarray) -> tuple[float, float, float]:
    """Compute D1, D2, D3+ from the counts of counts n1 to n4 of the n-grams of one order.

    Y = n1 / (n1 + 2 n2); Dk = k - (k + 1) Y n(k+1) / nk. Returns FALLBACK_DISCOUNTS if one is undefined
    or outside 0..k, which happens with very few tokens only.
    """
    n1, n2, n3, n4 = (int((counts == k).sum()) for k in (1, 2, 3, 4))
    if min(n1, n2, n3) == 0:
        return FALLBACK_DISCOUNTS
    y = n1 / (n1 + 2 * n2)
    values = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
    legal = all(0 < value <= k for k, value in enumerate(values, start=1))
    return values if legal else FALLBACK_DISCOUNTS


def _discounted(contexts: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return alpha of each n-gram, the distinct contexts (sorted) and gamma, the mass each leaves to lower orders.

    `contexts` [n], sorted, is the context of each n-gram, `counts` [n] its number of occurrences.
    """
    discount = np.array((0.0, *discounts(counts)))[np.minimum(counts, 3)]
    starts = np.flatnonzero(np.diff(contexts, prepend=-1))
    totals = np.add.reduceat(counts, starts) if len(starts) else np.zeros(0)
    discounted = np.add.reduceat(discount, starts) if len(starts) else np.zeros(0)
    lengths = np.diff(starts, append=len(contexts))
    return (counts - discount) / np.repeat(totals, lengths), contexts[starts], discounted / totals


def _histories(tokens: np.ndarray, offsets: np.ndarray, begin: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the two tokens before each one: `begin` before a document's first, -1 before that."""
    starts = offsets[:-1][np.diff(offsets) > 0]
    second_n = np.empty(len(tokens), np.int64)
    second_n[1:] = tokens[:-1]
    second_n[starts] = begin
    first_n = np.empty(len(tokens), np.int64)
    first_n[1:] = second_n[:-1]
    first_n[starts] = -1
    return first_n, second_n


def _find(keys: np.ndarray, values: np.ndarray, queries_n: np.ndarray, default: float) -> np.ndarray:
    """Look up the values of `queries_n` in sorted keys; `default` for a missing key."""
    if not len(keys):
        return np.full(len(queries_n), default)
    index_n = np.minimum(np.searchsorted(keys, queries_n), len(keys) - 1)
    return np.where(keys[index_n] == queries_n, values[index_n], default)


def _check(tokens: np.ndarray, vocab_size: int) -> None:
    if not 0 < vocab_size < 2**21 - 1:
        raise ConfigError(f"vocab_size = {vocab_size} must be in 1..{2**21 - 2} for n-gram counts")
    if not len(tokens):
        raise DataError("there are no tokens to count")
    if tokens.min() < 0 or tokens.max() >= vocab_size:
        raise DataError(f"token {int(tokens.max())} is outside the vocabulary of {vocab_size}")
