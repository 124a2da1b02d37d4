"""Stop strings: an automaton that a jitted loop follows token by token, and where the text is cut.

The automaton reads the bytes that tokens stand for (Aho and Corasick 1975), so that a stop string is found
wherever tokens begin and end: inside one, over several, at its end or not.
"""

from collections.abc import Sequence

import numpy as np

from tlx.base.errors import ConfigError
from tlx.decode.padding import bucket
from tlx.text.tokenizer import Tokenizer

BEGIN, FOUND = 0, 1  # states
_PROBE = "One, two: three."


def check(strings: Sequence[str]) -> None:
    """Raises ConfigError for a stop string that is empty, or one string in the place of a sequence."""
    if isinstance(strings, str):
        raise ConfigError(f"stop = {strings!r} must be a sequence of texts, such as ({strings!r},)")
    for string in strings:
        if not isinstance(string, str) or not string:
            raise ConfigError(f"stop = {tuple(strings)!r} must be texts that are not empty")


def cut(text: str, strings: Sequence[str]) -> str:
    """`text` up to where the first stop string begins in it."""
    places = [text.find(string) for string in strings]
    return text[: min((place for place in places if place >= 0), default=len(text))]


def automaton(strings: Sequence[str], tokenizer: Tokenizer, names_too: bool = False) -> np.ndarray | None:
    """int32 [S, V]: the state after a token; rows begin in BEGIN, and stay in FOUND once they are there.

    S is a power of two. Special ids stand for no bytes, or with `names_too` for their names. None where
    there are no strings, or where the text is not the bytes of the tokens one after the other (word pieces,
    which get spaces between them): there a row ends where it would, and its text is cut afterwards.
    """
    check(strings)
    ids = tokenizer.encode(_PROBE)
    joined = b"".join(tokenizer.piece_bytes(index) for index in ids).decode("utf-8", "replace")
    if not strings or joined.strip() != tokenizer.decode(ids).strip():
        return None
    moves_S256 = _byte_moves([string.encode() for string in strings])
    special_V = tokenizer.vocab.special
    pieces = [
        tokenizer.piece(index).encode() if names_too and special_V[index] else tokenizer.piece_bytes(index)
        for index in range(tokenizer.vocab.size)
    ]
    lengths_V = np.array([len(piece) for piece in pieces])
    order_V = np.argsort(-lengths_V, kind="stable")
    size = len(moves_S256)
    states_SV = np.repeat(np.arange(size, dtype=np.int32)[:, None], len(pieces), axis=1)
    for place in range(lengths_V.max(initial=0)):
        longer = order_V[: np.count_nonzero(lengths_V > place)]
        bytes_N = np.array([pieces[index][place] for index in longer])
        states_SV[:, longer] = moves_S256[states_SV[:, longer], bytes_N]
    room = bucket(size)
    return np.pad(states_SV, ((0, room - size), (0, 0)))


def _byte_moves(strings: Sequence[bytes]) -> np.ndarray:
    """int32 [S, 256]: the states are BEGIN, FOUND and the beginnings of the strings."""
    beginnings = {string[:n] for string in strings for n in range(1, len(string))}
    beginnings = sorted(text for text in beginnings if not any(string in text for string in strings))
    numbers = {b"": BEGIN} | {text: 2 + i for i, text in enumerate(beginnings)}
    moves = np.zeros((2 + len(beginnings), 256), np.int32)
    moves[FOUND] = FOUND
    for text, state in numbers.items():
        for byte in range(256):
            longer = text + bytes([byte])
            if any(longer.endswith(string) for string in strings):
                moves[state, byte] = FOUND
            else:
                ends = (longer[n:] for n in range(len(longer) + 1))
                moves[state, byte] = next(numbers[end] for end in ends if end in numbers)
    return moves
