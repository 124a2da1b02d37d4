"""The order of rows, as functions that need no state: permutations by index and the mixture's sequence."""

import functools
import hashlib
import math
from collections.abc import Sequence

import numpy as np

from tlx.base.errors import ConfigError

_MASK = (1 << 64) - 1
_ROUNDS = 6
_PERIOD = 10_000  # rows after which a mixture's sequence repeats: shares are multiples of 1/10,000


def hash64(*parts: object) -> int:
    """64 bits from integers and strings, the same on every machine."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "little")


def row_generator(seed: int, split: str, row: int) -> np.random.Generator:
    """The random numbers of one row of the global stream of rows (row = batch index * batch size + b)."""
    return np.random.Generator(np.random.Philox(key=[_stream(seed, split), row]))


class Permutation:
    """A bijection of 0..size-1 in O(1) memory, one of (at most) 2**64 by its key.

    A Feistel network over a x b >= size, alternately L += F(R) mod a and R += F(L) mod b, walked until it
    lands inside (Black and Rogaway, Ciphers with arbitrary finite domains, 2002). a x b exceeds size by
    less than 2 sqrt(size) + 1, so one walk nearly always suffices.
    """

    def __init__(self, size: int, key: int):
        self.size = size
        self._a = math.isqrt(size - 1) + 1
        self._b = -(-size // self._a)
        self._keys = [hash64(key, i) for i in range(_ROUNDS)]

    def __call__(self, index: int) -> int:
        """Where `index` goes."""
        a, b = self._a, self._b
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
    """The order of a source's windows in one epoch."""
    return Permutation(size, hash64("windows", seed, source, epoch))


class SourceMixture:
    """A fixed sequence that gives each source its share of any stretch of rows, to within a row or two.

    Each next row goes to the source that is furthest behind its share. The sequence repeats after
    `_PERIOD` rows, so that the number of a source's rows before any row is known without counting.
    """

    def __init__(self, weights: Sequence[float]):
        self.quotas = _quotas(weights)
        self._period = sum(self.quotas)
        sequence = _sequence(self.quotas)
        rows = np.zeros((self._period + 1, len(weights)), np.int64)
        rows[np.arange(1, self._period + 1), sequence] = 1
        self._source = sequence.tolist()
        self._before = np.cumsum(rows, axis=0)

    def source(self, row: int) -> tuple[int, int]:
        """(source of the row, how many earlier rows that source had)."""
        cycle, row = divmod(row, self._period)
        source = self._source[row]
        return source, cycle * self.quotas[source] + int(self._before[row, source])

    def count(self, source: int, rows: int) -> int:
        """How many of the first `rows` rows come from the source."""
        cycle, rest = divmod(rows, self._period)
        return cycle * self.quotas[source] + int(self._before[rest, source])


def _quotas(weights: Sequence[float]) -> list[int]:
    """Integers in the weights' proportions, by largest remainder, divided by their common divisor."""
    shares = np.asarray(weights, np.float64) / np.sum(weights) * _PERIOD
    quotas = np.floor(shares).astype(np.int64)
    quotas[np.argsort(quotas - shares, kind="stable")[: _PERIOD - int(quotas.sum())]] += 1
    if (quotas == 0).any():
        index = int(np.argmin(quotas))
        raise ConfigError(
            f"data.mixture[{index}].weight = {weights[index]} is less than 1/{_PERIOD} of all weights; "
            "such a source would never be read"
        )
    return (quotas // np.gcd.reduce(quotas)).tolist()


def _sequence(quotas: Sequence[int]) -> np.ndarray:
    shares = np.asarray(quotas, np.float64) / sum(quotas)
    left = np.asarray(quotas, np.int64)
    taken = np.zeros(len(quotas), np.int64)
    sequence = np.empty(sum(quotas), np.int64)
    for row in range(len(sequence)):
        behind = np.where(taken < left, shares * (row + 1) - taken, -np.inf)
        sequence[row] = source = int(np.argmax(behind))
        taken[source] += 1
    return sequence


def _mix(x: int) -> int:
    """SplitMix64's finaliser (Steele, Lea and Flood, 2014)."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & _MASK
    return x ^ (x >> 31)


@functools.lru_cache(maxsize=64)
def _stream(seed: int, split: str) -> int:
    return hash64("rows", seed, split)
