"""Stop strings: an automaton that a jitted loop follows token by token, and truncation of the text.

The automaton reads the bytes that tokens stand for (Aho and Corasick 1975), so that a stop string is found
wherever token boundaries lie: inside one token or across several.

Shapes: A states of the automaton.
"""

from collections.abc import Sequence

import numpy as np

from tlx.base.errors import ConfigError
from tlx.decode.padding import bucket
from tlx.text.tokenizer import Tokenizer

# States of the automaton: nothing matched so far, and a stop string completed.
BEGIN = 0
FOUND = 1
_PROBE = "One, two: three."


def check(strings: Sequence[str]) -> None:
    """Raise ConfigError for an empty stop string, or for a str where a sequence belongs."""
    if isinstance(strings, str):
        raise ConfigError(f"stop = {strings!r} must be a sequence of texts, such as ({strings!r},)")
    for string in strings:
        if not isinstance(string, str) or not string:
            raise ConfigError(f"stop = {tuple(strings)!r} must be texts that are not empty")


def cut(text: str, strings: Sequence[str]) -> str:
    """Truncate `text` before the first stop string in it."""
    starts = [text.find(string) for string in strings]
    return text[: min((start for start in starts if start >= 0), default=len(text))]


def automaton(strings: Sequence[str], tokenizer: Tokenizer, names_too: bool = False) -> np.ndarray | None:
    """Build the table of states after each token.

    Rows begin in BEGIN and stay in FOUND once a stop string is complete. Special ids stand for no bytes,
    unless `names_too`.

    Args:
        strings: Stop strings.
        tokenizer: Gives the bytes of each token.
        names_too: Special ids stand for the bytes of their names.

    Returns:
        int32 [A, V], A a power of two. None if there are no strings, or if a text is not the concatenation of
        its tokens' bytes (word pieces, which get spaces between them): such a text is truncated afterwards.

    Raises:
        ConfigError: a string is empty.
    """
    check(strings)
    if not strings or not joins_bytes(tokenizer):
        return None
    moves_A256 = _byte_moves([string.encode() for string in strings])
    special_V = tokenizer.vocab.special
    pieces = [
        tokenizer.piece(index).encode() if names_too and special_V[index] else tokenizer.piece_bytes(index)
        for index in range(tokenizer.vocab.size)
    ]
    lengths_V = np.array([len(piece) for piece in pieces])
    order_V = np.argsort(-lengths_V, kind="stable")
    size = len(moves_A256)
    states_AV = np.repeat(np.arange(size, dtype=np.int32)[:, None], len(pieces), axis=1)
    # All tokens are followed together, byte by byte; the longest come first in order_V.
    for offset in range(lengths_V.max(initial=0)):
        longer = order_V[: np.count_nonzero(lengths_V > offset)]
        next_bytes = np.array([pieces[index][offset] for index in longer])
        states_AV[:, longer] = moves_A256[states_AV[:, longer], next_bytes]
    # A power of two, so that few shapes are compiled.
    num_states = bucket(size)
    return np.pad(states_AV, ((0, num_states - size), (0, 0)))


def joins_bytes(tokenizer: Tokenizer) -> bool:
    """Return whether a text is its tokens' bytes joined: word pieces get spaces between them."""
    ids = tokenizer.encode(_PROBE)
    joined = b"".join(tokenizer.piece_bytes(index) for index in ids).decode("utf-8", "replace")
    return joined.strip() == tokenizer.decode(ids).strip()


def _byte_moves(strings: Sequence[bytes]) -> np.ndarray:
    """Return the state after each byte, int32 [A, 256]; states are BEGIN, FOUND and the strings' prefixes."""
    prefixes = {string[:n] for string in strings for n in range(1, len(string))}
    # A prefix that holds another stop string is never reached: the automaton has stopped by then.
    prefixes = sorted(text for text in prefixes if not any(string in text for string in strings))
    numbers = {b"": BEGIN} | {text: 2 + i for i, text in enumerate(prefixes)}
    moves = np.zeros((2 + len(prefixes), 256), np.int32)
    moves[FOUND] = FOUND
    for text, state in numbers.items():
        for byte in range(256):
            extended = text + bytes([byte])
            if any(extended.endswith(string) for string in strings):
                moves[state, byte] = FOUND
            else:
                # The longest suffix that is a prefix of a string.
                suffixes = (extended[n:] for n in range(len(extended) + 1))
                moves[state, byte] = next(numbers[suffix] for suffix in suffixes if suffix in numbers)
    return moves
