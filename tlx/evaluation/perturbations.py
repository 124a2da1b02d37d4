"""Changes of records by which a classifier is tested: texts left out, typos, words exchanged.

Each is a pure function of the records and a seed. A change that finds nothing to change in a record leaves it out.
"""

import re
from collections.abc import Callable, Sequence

import numpy as np

from tlx.data.readers import Record

Columns = Sequence[tuple[str, str]]
"""Columns of text, each with the config's field that names it."""

TextChange = Callable[[str, np.random.Generator], str]
"""A text and a random generator to the changed text."""

# An auxiliary of a sentence and its negation. One is exchanged in a record, so that the sentence says the opposite.
NEGATIONS = (
    ("is", "is not"),
    ("are", "are not"),
    ("was", "was not"),
    ("were", "were not"),
    ("will", "will not"),
    ("can", "cannot"),
    ("has", "has not"),
    ("have", "have not"),
    ("should", "should not"),
    ("would", "would not"),
)

# Spellings of the same words.
PARAPHRASES = (
    ("is not", "isn't"),
    ("are not", "aren't"),
    ("was not", "wasn't"),
    ("do not", "don't"),
    ("does not", "doesn't"),
    ("did not", "didn't"),
    ("cannot", "can't"),
    ("will not", "won't"),
    ("it is", "it's"),
    ("i am", "i'm"),
)


def changed_records(
    records: Sequence[Record], columns: Columns, change: TextChange, seed: int = 0
) -> tuple[list[int], list[Record]]:
    """Change the texts of records.

    Args:
        records: The records.
        columns: Columns to change.
        change: The change of one text.
        seed: Seed; record i draws from (seed, i) alone.

    Returns:
        Indices of the records in which a text changed, and these records.
    """
    indices: list[int] = []
    changed: list[Record] = []
    for index, record in enumerate(records):
        rng = np.random.default_rng([seed, index])
        texts = {name: record.text(name, field) for name, field in columns}
        after = {name: change(text, rng) for name, text in texts.items()}
        if after != texts:
            indices.append(index)
            changed.append(record._replace(values={**record.values, **after}))
    return indices, changed


def only_column(records: Sequence[Record], columns: Columns, kept: str) -> list[Record]:
    """Empty every column of text but one.

    Args:
        records: The records.
        columns: Columns of text.
        kept: Name of the column that stays.

    Returns:
        Changed records.
    """
    empty = {name: "" for name, _ in columns if name != kept}
    return [record._replace(values={**record.values, **empty}) for record in records]


def typos(fraction: float) -> TextChange:
    """Return the change that exchanges two neighbouring inner letters of a fraction of the words of 4 letters.

    Longer words count too. At least one word is drawn where there is one. The first and the last letter stay, as most
    readers need them.
    """

    def change(text: str, rng: np.random.Generator) -> str:
        words = [match for match in re.finditer(r"[^\W\d_]{4,}", text) if _can_swap(match.group())]
        if not words:
            return text
        chosen = rng.random(len(words)) < fraction
        chosen[rng.integers(len(words))] = True
        pieces = list(text)
        for match in (word for word, drawn in zip(words, chosen, strict=True) if drawn):
            word = match.group()
            places = [i for i in range(1, len(word) - 2) if word[i] != word[i + 1]]
            i = match.start() + places[int(rng.integers(len(places)))]
            pieces[i : i + 2] = reversed(pieces[i : i + 2])
        return "".join(pieces)

    return change


def _can_swap(word: str) -> bool:
    return any(word[i] != word[i + 1] for i in range(1, len(word) - 2))


def exchange(pairs: Sequence[tuple[str, str]], once: bool) -> TextChange:
    """Return the change that writes the second words of a pair for the first, where these stand as whole words.

    Args:
        pairs: Pairs of words; case is ignored, and a capital at the beginning kept. Of two pairs that could begin at
            the same word the longer one is used.
        once: Whether the first of them in a text is exchanged alone, else all are.

    Returns:
        The change.
    """
    after = {before.lower(): words for before, words in pairs}
    longest_first = sorted(after, key=len, reverse=True)
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)", re.IGNORECASE)

    def written(match: re.Match[str]) -> str:
        words = after[match.group().lower()]
        return words[:1].upper() + words[1:] if match.group()[:1].isupper() else words

    def change(text: str, rng: np.random.Generator) -> str:
        del rng
        return pattern.sub(written, text, count=1 if once else 0)

    return change


def negations(pairs: Sequence[tuple[str, str]]) -> TextChange:
    """Return the change that negates the first auxiliary of a text, unless it is negated already."""
    negate = exchange(pairs, once=True)
    negated = re.compile(r"(?<!\w)(?:not|never|no|cannot)(?!\w)|n't(?!\w)", re.IGNORECASE)
    return lambda text, rng: text if negated.search(text) else negate(text, rng)
