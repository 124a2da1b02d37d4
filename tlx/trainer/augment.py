"""Augmentation of a task's texts by a masked language model: TinyBERT's, before its task stage.

Jiao et al. 2020, arXiv:1909.10351, algorithm 1: every word of a text gets candidates, a word of one piece the
likeliest tokens at its place when it is masked, a word of several pieces the nearest neighbours of its vector. A copy
of the text has each word replaced with a probability by one of its candidates at random.

Vectors are those of a file, such as GloVe's, or by default the means of the words' pieces in the model's token table,
whose neighbours are the pieces that are words.

Shapes: W words that have vectors.
"""

import dataclasses
import functools
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from tlx.api.loaded_model import LoadedModel
from tlx.base import place as places
from tlx.base.errors import ConfigError, DataError
from tlx.data.readers import Record

# Letters with what joins them inside a word; numbers and punctuation stay as they are.
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_ROWS = 64  # of a batch of masked texts
_MODEL_TABLE = ("embedding", "table")


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """How many copies of each text are made, and how different they are."""

    copies: int = 20
    """Copies of each record, at least 1 (TinyBERT: 20, 10 of large sets); those that are equal are left out."""
    probability: float = 0.4
    """Probability with which a word is replaced, above 0 and at most 1."""
    candidates: int = 15
    """Candidates of a word, at least 1."""
    vectors: str = ""
    """Text file of word vectors, a word and its numbers a line, whose neighbours replace words of several pieces;
    "": the model's token table."""
    seed: int = 0
    """Seed of the draws."""

    def validate(self) -> None:
        """Raise ConfigError naming the field, its value and what is legal."""
        for name in ("copies", "candidates"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} = {getattr(self, name)} must be at least 1")
        if not 0 < self.probability <= 1:
            raise ConfigError(f"probability = {self.probability} must be above 0 and at most 1")


class Word(NamedTuple):
    """A word of a text."""

    start: int
    """Index of its first character."""
    end: int
    """Index after its last one."""
    candidates: tuple[str, ...]
    """Words that may replace it; () where there are none."""


class WordVectors(NamedTuple):
    """Vectors of words, to find neighbours."""

    words: tuple[str, ...]
    """The words."""
    table_WD: np.ndarray
    """Their vectors, of length 1; float32."""

    def nearest(self, vector: np.ndarray, word: str, count: int) -> tuple[str, ...]:
        """Return the words nearest to a vector by cosine.

        Args:
            vector: float32 [D].
            word: Its word, which is left out.
            count: Number of neighbours.

        Returns:
            The neighbours, the nearest first.
        """
        order = np.argsort(-(self.table_WD @ vector), kind="stable")[: count + 8]
        others = (self.words[i] for i in order if self.words[i].lower() != word.lower())
        return tuple(dict.fromkeys(others))[:count]


class Augmenter:
    """Copies of texts with words replaced."""

    def __init__(self, lm: LoadedModel, settings: AugmentConfig):
        """Take a masked language model; raise ConfigError for an illegal setting."""
        settings.validate()
        self._lm = lm
        self._settings = settings

    def copies(self, texts: Sequence[str], rng: np.random.Generator) -> list[tuple[str, ...]]:
        """Return copies of the texts of one record, all of them changed together.

        Args:
            texts: The texts.
            rng: Generator of the draws.

        Returns:
            At most `copies` tuples of texts, each unlike the original and the others.
        """
        words = [self._words(text) for text in texts]
        found: dict[tuple[str, ...], None] = {}
        for _ in range(self._settings.copies):
            copy = tuple(self._copy(*pair, rng) for pair in zip(texts, words, strict=True))
            if copy != tuple(texts):
                found[copy] = None
        return list(found)

    def _copy(self, text: str, words: Sequence[Word], rng: np.random.Generator) -> str:
        pieces = []
        last = 0
        for word in words:
            # Drawn whether there are candidates or not, so that a word does not change the draws of the others.
            is_replaced = rng.random() < self._settings.probability
            if not word.candidates or not is_replaced:
                continue
            original = text[word.start : word.end]
            chosen = word.candidates[rng.integers(len(word.candidates))]
            pieces += [text[last : word.start], _cased(chosen, original)]
            last = word.end
        return "".join(pieces) + text[last:]

    def _words(self, text: str) -> list[Word]:
        """Return the words of a text with their candidates: other words."""
        spans = [match.span() for match in _WORD.finditer(text)]
        is_one = [self._is_one_piece(text[start:end]) for start, end in spans]
        masked = [(text[:start], text[end:]) for (start, end), one in zip(spans, is_one, strict=True) if one]
        likeliest = iter(self._likeliest(masked))
        words = []
        for (start, end), one in zip(spans, is_one, strict=True):
            word = text[start:end]
            found = next(likeliest) if one else self._neighbours(word)
            words.append(Word(start, end, tuple(c for c in found if c.lower() != word.lower())))
        return words

    def _is_one_piece(self, word: str) -> bool:
        encode = self._lm.tokenizer.encode
        # Byte pairs have other pieces for a word after a space.
        return min(len(encode(word)), len(encode(" " + word))) == 1

    def _likeliest(self, masked: Sequence[tuple[str, str]]) -> Iterator[tuple[str, ...]]:
        """Yield the likeliest words between the two parts of each text; () where a row is too long."""
        lm = self._lm
        frame = lm.frame
        for first in range(0, len(masked), _ROWS):
            rows = []
            gaps = []
            for before, after in masked[first : first + _ROWS]:
                ids = [*frame.before, *lm.tokenizer.encode(before)]
                gaps.append(len(ids))
                rows.append([*ids, lm.tokenizer.vocab.mask, *lm.tokenizer.encode(after), *frame.after])
            # All batches have one size; rows that fill it, or that are too long, are the mask alone.
            empty = [*frame.before, lm.tokenizer.vocab.mask, *frame.after]
            fits = [len(row) <= lm.config.data.sequence_length for row in rows]
            filled = [row if row_fits else empty for row, row_fits in zip(rows, fits, strict=True)]
            filled += [empty] * (_ROWS - len(rows))
            places = [gap if row_fits else 0 for gap, row_fits in zip(gaps, fits, strict=True)]
            places += [0] * (_ROWS - len(rows))
            logits_BV = lm.gap_logits(filled, places)[: len(rows), : len(self._is_word)]
            logits_BV = np.where(self._is_word, logits_BV, -np.inf)
            best_BK = np.argsort(-logits_BV, axis=1, kind="stable")[:, : self._settings.candidates]
            for row_fits, best in zip(fits, best_BK, strict=True):
                yield tuple(map(self._piece_word, best)) if row_fits else ()

    def _neighbours(self, word: str) -> tuple[str, ...]:
        """Return the nearest words of one of several pieces; () where it has no vector."""
        count = self._settings.candidates
        vectors = self._vectors
        if self._settings.vectors:
            index = self._index.get(word, self._index.get(word.lower()))
            return () if index is None else vectors.nearest(vectors.table_WD[index], word, count)
        ids = self._lm.tokenizer.encode(word)
        return vectors.nearest(self._table[ids].mean(axis=0), word, count) if ids else ()

    def _piece_word(self, index: int) -> str:
        return self._lm.tokenizer.decode([int(index)]).strip()

    @functools.cached_property
    def _is_word(self) -> np.ndarray:
        """bool [V]: whether an id is a word by itself."""
        tokenizer = self._lm.tokenizer
        is_word = np.array(tokenizer.starts_word) & ~np.asarray(tokenizer.vocab.special)
        for index in np.flatnonzero(is_word).tolist():
            is_word[index] = _WORD.fullmatch(self._piece_word(index)) is not None
        return is_word

    @functools.cached_property
    def _table(self) -> np.ndarray:
        """The model's token table, float32 [V, D], with vectors of length 1."""
        node: Any = self._lm.params["model"]
        for name in _MODEL_TABLE:
            node = node[name]
        table = np.asarray(node, np.float32)
        return table / np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-9)

    @functools.cached_property
    def _vectors(self) -> WordVectors:
        if self._settings.vectors:
            return read_vectors(self._settings.vectors)
        ids = np.flatnonzero(self._is_word).tolist()
        return WordVectors(tuple(map(self._piece_word, ids)), self._table[ids])

    @functools.cached_property
    def _index(self) -> dict[str, int]:
        return {word: i for i, word in enumerate(self._vectors.words)}


def read_vectors(path: str) -> WordVectors:
    """Read a text file of word vectors, a word and its numbers a line, as GloVe's are.

    Raises:
        ConfigError: The file cannot be read.
        DataError: A line has no numbers, or another number of them.
    """
    words = []
    rows = []
    try:
        text = places.as_named(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"vectors = {path!r} cannot be read: {error}") from error
    # Not splitlines: words hold other separators of lines.
    for number, line in enumerate(text.removesuffix("\n").split("\n"), start=1):
        word, *values = line.rstrip().split(" ")
        try:
            rows.append(np.array(values, np.float32))
        except ValueError:
            raise DataError(f"{path}:{number}: not a word and numbers") from None
        if not values or len(rows[-1]) != len(rows[0]):
            raise DataError(f"{path}:{number}: {len(values)} numbers, the first line has {len(rows[0])}")
        words.append(word)
    if not words:
        raise DataError(f"{path} has no vectors")
    table = np.stack(rows)
    return WordVectors(tuple(words), table / np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-9))


def augmented(
    records: Sequence[Record], columns: Sequence[str], lm: LoadedModel, settings: AugmentConfig
) -> Iterator[dict[str, Any]]:
    """Yield the values of each record, and then those of its copies.

    Args:
        records: The records.
        columns: Columns of texts that are changed; a record may lack one.
        lm: A masked language model.
        settings: Number and strength of the changes.

    Returns:
        Values by column.

    Raises:
        ConfigError: The model is no masked one, or a setting is not legal.
    """
    augmenter = Augmenter(lm, settings)
    for number, record in enumerate(records):
        yield dict(record.values)
        names = [name for name in columns if isinstance(record.values.get(name), str)]
        # By the record, so that the others do not change its copies.
        rng = np.random.default_rng((settings.seed, number))
        for copy in augmenter.copies([record.values[name] for name in names], rng):
            yield {**record.values, **dict(zip(names, copy, strict=True))}


def _cased(word: str, like: str) -> str:
    """Return a word with a capital where the one that it replaces has one."""
    return word[0].upper() + word[1:] if like[0].isupper() else word
