"""The second part of XLNet's rows: A sep B sep cls, where B is what follows A or text from elsewhere.

zihangdai/xlnet data_utils.py (_split_a_and_b): A is a random number of the sentences that come after the
reused part. With probability .5, and always where there is no end of a sentence to cut at, B is what is missing
from a random token on, widened to whole sentences at both ends; else B goes on where A ends, to the end of the
sentence with which the part is full. The longer of the two loses tokens from its end until both fill the part
exactly: where it is A, a gap is between them. Nothing is predicted of which case it was. The next row begins after
the reused part.

Compared with that function line by line; what differs:

- There sentences are lines of the input; here they end as ObjectiveSpec.ends_sentence says (anywhere where the
  tokenizer does not know), and with a document's eos, as there.
- Text is read as far as a part before a random token, and a part and more after it. A sentence of B that begins
  earlier begins there; what lies further on is always cut off.
- B is from anywhere in the split, there from the row's own part of it; the last rows of the split are padded, there
  left out.

With `pair_ends` "part", as before this was so, A's text ends where the part is full, within a sentence, B follows A
without a gap, and elsewhere begins with the first sentence of a random window that leaves enough after it.
"""

from typing import NamedTuple

import numpy as np

from tlx.data.window import Window
from tlx.objectives.shared.base import ObjectiveSpec

NUM_FUNCTIONAL = 3  # sep, sep and cls


class SecondSegment(NamedTuple):
    """The second part of a row, padded at its end."""

    tokens: np.ndarray
    """int32 [n]."""
    types: np.ndarray
    """int32 [n]: 0 for A, 1 for B, 2 for cls."""
    functional: np.ndarray
    """bool [n], True at sep and cls."""
    size: int
    """Number of tokens that are no padding."""


def second_part(
    rng: np.random.Generator, text: np.ndarray, other: Window, length: int, spec: ObjectiveSpec
) -> SecondSegment:
    """Make the second part of a row of two texts.

    Args:
        rng: Random generator of the row.
        text: int32 ids after the reused part.
        other: Text from elsewhere.
        length: Tokens of the part.
        spec: What examples depend on.

    Returns:
        The part; nothing but padding where there is no text.
    """
    if not len(text):
        padding = np.full(length, spec.vocab.pad, np.int32)
        return SecondSegment(padding, np.zeros(length, np.int32), np.zeros(length, bool), 0)
    begun = other.tokens[other.segments > 0]
    a, b = two_texts(rng, text, begun, length - NUM_FUNCTIONAL, spec, other.backwards)
    return segments_row(a, b, length, spec)


def segments_row(a: np.ndarray, b: np.ndarray, length: int, spec: ObjectiveSpec) -> SecondSegment:
    """Join two texts that fit.

    Args:
        a: int32 ids.
        b: int32 ids.
        length: Tokens of the part.
        spec: What examples depend on.

    Returns:
        A sep B sep cls, padded.
    """
    vocab = spec.vocab
    tokens = np.full(length, vocab.pad, np.int32)
    types = np.zeros(length, np.int32)
    functional = np.zeros(length, bool)
    a_size = len(a)
    size = a_size + len(b) + NUM_FUNCTIONAL
    tokens[:a_size] = a
    tokens[a_size] = vocab.sep
    tokens[a_size + 1 : size - 2] = b
    tokens[size - 2] = vocab.sep
    tokens[size - 1] = vocab.cls
    types[a_size + 1 : size] = 1
    types[size - 1] = 2
    functional[a_size] = True
    functional[size - 2 : size] = True
    return SecondSegment(tokens, types, functional, size)


def two_texts(
    rng: np.random.Generator,
    text: np.ndarray,
    other: np.ndarray,
    room: int,
    spec: ObjectiveSpec,
    backwards: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Cut A and B.

    Args:
        rng: Random generator of the row.
        text: int32 ids after the reused part.
        other: int32 ids of text from elsewhere.
        room: Tokens of A and B together, where there are as many.
        spec: What examples depend on.
        backwards: Whether both texts are in reverse.

    Returns:
        (A, B), int32 ids.
    """
    cuts = between_sentences(text, spec, backwards)
    if spec.config.pair_ends == "sentence":
        # A ends before the part is full, and B with the sentence in which it is.
        later = cuts[cuts >= room]
        cuts = cuts[cuts < room]
        text = text[: int(later[0])] if len(later) else text
    if len(cuts) and rng.random() < 0.5:
        a_size = _one_of(rng, cuts)
        a_kept, b_kept = trimmed_sizes(a_size, len(text) - a_size, room)
        return text[:a_kept], text[a_size : a_size + b_kept]
    a = text[: _one_of(rng, cuts)] if len(cuts) else text
    missing = max(1, room - len(a))
    if spec.config.pair_ends == "sentence":
        b = widened(other, min(room, max(len(other) - missing, 0)), missing, spec, backwards)
    else:
        b = _first_sentences(other, missing, spec, backwards)
    a_size, b_size = trimmed_sizes(len(a), len(b), room)
    return a[:a_size], b[:b_size]


def _one_of(rng: np.random.Generator, values: np.ndarray) -> int:
    """Draw one of some values, as rng.choice does it, in a quarter of its time."""
    return int(values[rng.integers(len(values))])


def widened(text: np.ndarray, start: int, size: int, spec: ObjectiveSpec, backwards: bool) -> np.ndarray:
    """Widen a stretch of a text to whole sentences at both of its ends.

    Args:
        text: int32 ids.
        start: Index of the stretch's first token.
        size: Tokens of the stretch, 1 or more.
        spec: What examples depend on.
        backwards: Whether the text is in reverse.

    Returns:
        int32 ids of the sentences, which end with the text at the latest.
    """
    cuts = between_sentences(text, spec, backwards)
    before = int(cuts.searchsorted(start, "right"))
    after = int(cuts.searchsorted(start + size))
    first = int(cuts[before - 1]) if before else 0
    last = int(cuts[after]) if after < len(cuts) else len(text)
    return text[first:last]


def _first_sentences(text: np.ndarray, size: int, spec: ObjectiveSpec, backwards: bool) -> np.ndarray:
    """Return the sentences of a text, from the first that begins in it on, that have at least `size` tokens."""
    starts = between_sentences(text[: max(len(text) - size + 1, 0)], spec, backwards)
    text = text[int(starts[0]) :] if len(starts) else text
    ends = np.append(between_sentences(text, spec, backwards), len(text))
    return text[: int(ends[min(np.searchsorted(ends, size), len(ends) - 1)])]


def between_sentences(tokens: np.ndarray, spec: ObjectiveSpec, backwards: bool) -> np.ndarray:
    """Find where a sentence has ended and another follows.

    Args:
        tokens: int32 [n].
        spec: What examples depend on.
        backwards: Whether the text is in reverse; a sentence then begins with the token that ends it.

    Returns:
        Indices in 1..n-1 of the first tokens of sentences, ascending.
    """
    if spec.ends_sentence is None:
        return np.arange(1, len(tokens))
    tokens = tokens[1:] if backwards else tokens[:-1]
    return (spec.ends_sentence[tokens] | (tokens == spec.vocab.eos)).nonzero()[0] + 1


def trimmed_sizes(a_size: int, b_size: int, room: int) -> tuple[int, int]:
    """Return the sizes of two texts of which the longer one loses tokens until both fit.

    Args:
        a_size: Tokens of A.
        b_size: Tokens of B, which loses first where both are equal.
        room: Most tokens of both together.

    Returns:
        What is left of A and of B.
    """
    excess = max(0, a_size + b_size - room)
    from_a = min(excess, max(0, a_size - b_size))
    from_b = min(excess, max(0, b_size - a_size))
    from_both = excess - from_a - from_b
    return a_size - from_a - from_both // 2, b_size - from_b - (from_both + 1) // 2
