"""The order of rows, without state: permutations by index and the sequence of a mixture's sources."""

import bisect
import functools
import hashlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.random.bit_generator import ISeedSequence
from typing_extensions import override

from tlx.base.errors import ConfigError

_MASK = (1 << 64) - 1
_ROUNDS = 6
# Rows after which a mixture's sequence repeats: fractions are multiples of 1/10,000, or of a millionth where one of
# them is smaller than that.
_PERIOD = 10_000
_FINE_PERIOD = 1_000_000


def hash64(*parts: object) -> int:
    """Hash integers and strings to 64 bits, the same on every machine."""
    # Not Python's hash(), which differs from process to process.
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "little")


def row_generator(seed: int, split: str, row: int) -> np.random.Generator:
    """Return the random generator of one row of the global stream of rows.

    Args:
        seed: Seed of the run.
        split: Name of the split, or of another stream of rows.
        row: Row index in the stream: batch index * batch size + index in the batch.

    Returns:
        A Philox generator whose key is (stream, row), independent of all others.
    """
    # Counter-based: any row's numbers are had without drawing those before it.
    key: Any = _PhiloxKey(_stream(seed, split), row)
    return np.random.Generator(np.random.Philox(key))


class _PhiloxKey(ISeedSequence):
    """A key for Philox; Philox(key=...) asks the system for entropy first, which takes longer than all else."""

    def __init__(self, stream: int, row: int):
        # A stream from 2^63 on is rounded to a double, and the row with it, as numpy does it with such a list.
        # Kept, so that earlier runs go on in their order.
        self._key = np.array([stream, row], np.float64 if stream >> 63 else np.int64).astype(np.uint64)

    @override
    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> np.ndarray:
        """Return the key, uint64 [2]."""
        return self._key


class Permutation:
    """A pseudorandom permutation of 0..size-1 in O(1) memory, selected by a 64-bit key.

    A Feistel network over a x b >= size, alternately L += F(R) mod a and R += F(L) mod b, repeated until the
    result is below size (cycle walking; Black and Rogaway, Ciphers with arbitrary finite domains, 2002).
    a x b exceeds size by less than 2 sqrt(size) + 1, so one pass nearly always suffices.
    """

    def __init__(self, size: int, key: int):
        self.size = size
        self._a = math.isqrt(size - 1) + 1
        self._b = -(-size // self._a)
        self._keys = [hash64(key, i) for i in range(_ROUNDS)]

    def __call__(self, index: int) -> int:
        """Return the image of `index`."""
        a = self._a
        b = self._b
        # a x b is a little more than size: an image outside is walked on until it is inside, which keeps the
        # map one to one.
        while True:
            left, right = divmod(index, b)
            for i in range(0, _ROUNDS, 2):
                left = (left + _mix(right ^ self._keys[i])) % a
                right = (right + _mix(left ^ self._keys[i + 1])) % b
            index = left * b + right
            if index < self.size:
                return index


@functools.lru_cache(maxsize=256)
def epoch_permutation(seed: int, source: int, epoch: int, size: int) -> Permutation:
    """Return the order of a source's windows in one epoch.

    Args:
        seed: Seed of the run.
        source: Index of the source in the mixture.
        epoch: Epoch of that source.
        size: Number of its windows.

    Returns:
        The permutation of the window indices.
    """
    return Permutation(size, hash64("windows", seed, source, epoch))


class SourceMixture:
    """A fixed sequence of sources that keeps each source within a row or two of its fraction at any row.

    Each next row goes to the source with the largest deficit. The sequence repeats after at most `_FINE_PERIOD`
    rows, so that the number of a source's rows before any row follows from tables of one period.
    """

    def __init__(self, weights: Sequence[float]):
        self.quotas = _quotas(weights)
        self._period = sum(self.quotas)
        sequence = _sequence(self.quotas) if self._period <= _PERIOD else _fine_sequence(self.quotas)
        self._source = sequence.astype(np.int32)
        # Rows of each source in a period, and for each row the number of earlier ones of its source.
        self._rows = [np.flatnonzero(sequence == source) for source in range(len(self.quotas))]
        self._earlier = np.zeros(self._period, np.int32)
        for rows in self._rows:
            self._earlier[rows] = np.arange(len(rows))

    def source(self, row: int) -> tuple[int, int]:
        """Return the source of a row, and the number of earlier rows of that source."""
        cycle, row = divmod(row, self._period)
        source = int(self._source[row])
        return source, cycle * self.quotas[source] + int(self._earlier[row])

    def count(self, source: int, rows: int) -> int:
        """Return how many of the first `rows` rows come from the source."""
        cycle, remainder = divmod(rows, self._period)
        return cycle * self.quotas[source] + int(self._rows[source].searchsorted(remainder))


class ScheduledMixture:
    """Mixtures that follow one another at stated rows; in each source the rows go on from one to the next."""

    def __init__(self, first_rows: Sequence[int], weights: Sequence[Sequence[float]]):
        """Prepare the stages.

        Args:
            first_rows: First row of each stage, ascending from 0.
            weights: Weights of the sources in each stage.
        """
        self._first_rows = list(first_rows)
        self._stages = [SourceMixture(stage) for stage in weights]
        sources = range(len(weights[0]))
        # Rows of each source before each stage.
        self._before = [[0 for _ in sources]]
        for stage, rows in zip(self._stages, np.diff(first_rows).tolist(), strict=False):
            self._before.append([self._before[-1][source] + stage.count(source, rows) for source in sources])

    def source(self, row: int) -> tuple[int, int]:
        """Return the source of a row, and the number of earlier rows of that source."""
        stage = bisect.bisect_right(self._first_rows, row) - 1
        source, earlier = self._stages[stage].source(row - self._first_rows[stage])
        return source, self._before[stage][source] + earlier

    def count(self, source: int, rows: int) -> int:
        """Return the largest number of rows of the source among the first `rows` rows of a stage."""
        return max(stage.count(source, rows) for stage in self._stages)


def _quotas(weights: Sequence[float]) -> list[int]:
    """Round weights to integers by the largest-remainder method, divided by their common divisor."""
    # The shorter period where it will do: its sequence is that of all runs before there was the longer one.
    for period in (_PERIOD, _FINE_PERIOD):
        fractions = np.asarray(weights, np.float64) / np.sum(weights) * period
        quotas = np.floor(fractions).astype(np.int64)
        # Stable, so that equal weights are rounded the same way on every machine.
        quotas[np.argsort(quotas - fractions, kind="stable")[: period - int(quotas.sum())]] += 1
        if (quotas > 0).all():
            return (quotas // np.gcd.reduce(quotas)).tolist()
    index = int(np.argmin(weights))
    raise ConfigError(
        f"data.mixture[{index}].weight = {weights[index]} is less than 1/{_FINE_PERIOD} of all weights; "
        "such a source would never be read"
    )


def _sequence(quotas: Sequence[int]) -> np.ndarray:
    """One period of sources: each row goes to the source with the largest deficit that has rows left."""
    fractions = np.asarray(quotas, np.float64) / sum(quotas)
    limit = np.asarray(quotas, np.int64)
    taken = np.zeros(len(quotas), np.int64)
    sequence = np.empty(sum(quotas), np.int64)
    for row in range(len(sequence)):
        # A source that has had its rows of the period waits for the next one, so that the counts are exact.
        deficit = np.where(taken < limit, fractions * (row + 1) - taken, -np.inf)
        source = int(np.argmax(deficit))
        sequence[row] = source
        taken[source] += 1
    return sequence


def _fine_sequence(quotas: Sequence[int]) -> np.ndarray:
    """One long period of sources: row j of a source with q rows is due at (2 j + 1) / (2 q) of the period."""
    sources = np.repeat(np.arange(len(quotas)), quotas)
    due = np.concatenate([(2 * np.arange(quota) + 1) / (2 * quota) for quota in quotas])
    # Stable, and quotients of equal fractions are equal: the same order on every machine.
    return sources[np.argsort(due, kind="stable")]


def _mix(x: int) -> int:
    """Apply the finaliser of SplitMix64 (Steele, Lea and Flood, 2014)."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & _MASK
    return x ^ (x >> 31)


@functools.lru_cache(maxsize=64)
def _stream(seed: int, split: str) -> int:
    return hash64("rows", seed, split)
