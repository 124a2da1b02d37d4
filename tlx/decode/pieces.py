"""The text of tokens that come one after the other, in pieces which joined are the whole text.

A piece ends where nothing that may still come changes the text before it: not inside a character of several bytes,
not inside what may become a stop string, and with word pieces not inside a word. (A vocabulary with byte fallback may
write bytes that are no text at all after a character of the same run of bytes; the decoder then takes back the
character, and a piece cannot.)
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

from tlx.decode.stop import cut

# What a decoder writes for bytes that are no character, or not yet.
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class TextPieces:
    """The text of one row, as far as it is certain."""

    def __init__(
        self,
        decode: Callable[[list[int]], str],
        stop: Sequence[str] = (),
        joins_bytes: bool = True,
        strip: bool = False,
    ):
        """Begin a text without tokens.

        Args:
            decode: Text of all tokens so far.
            stop: Strings that end the text, and are no part of it.
            joins_bytes: Whether a text is its tokens' bytes joined (decode.stop.joins_bytes); word pieces are not.
            strip: Whether white space at both ends of the text is left out.
        """
        self._decode = decode
        self._stop = tuple(stop)
        self._joins_bytes = joins_bytes
        self._strip = strip
        self._tokens: list[int] = []
        self._sent = ""
        self.stopped = False
        """Whether a stop string has ended the text."""

    @property
    def tokens(self) -> list[int]:
        """The tokens so far."""
        return self._tokens

    def feed(self, tokens: Sequence[int]) -> str:
        """Add tokens; return the text that is certain and was not returned before."""
        if not self._stop:
            self._tokens += tokens
            return self._send(self._certain(self._decode(self._tokens)))
        piece = ""
        # One by one: a text ends with the token that completes a stop string.
        for token in tokens:
            if self.stopped:
                break
            self._tokens.append(token)
            text = self._decode(self._tokens)
            self.stopped = self._joins_bytes and any(string in text for string in self._stop)
            piece += self._send(self._certain(text))
        return piece

    def finish(self) -> str:
        """Return the text that was held back."""
        text = self._decode(self._tokens)
        shown = cut(text, self._stop)
        self.stopped |= shown != text
        return self._send(shown.strip() if self._strip else shown)

    def _certain(self, text: str) -> str:
        """Return the text whose further tokens cannot change it."""
        # The bytes at the end may become any character.
        text = text.rstrip(_REPLACEMENT)
        # A longer stop string that begins earlier may still be completed.
        end = min(len(cut(text, self._stop)), _start_of_beginning(text, self._stop))
        shown = text[:end]
        if not self._joins_bytes:
            words = shown.rsplit(maxsplit=1)
            shown = words[0] if len(words) == 2 else ""
        return shown.strip() if self._strip else shown

    def _send(self, text: str) -> str:
        """Return what is new in a text."""
        piece = text.removeprefix(self._sent)
        if len(piece) + len(self._sent) != len(text):
            return ""  # shorter than what was sent
        self._sent = text
        return piece


def text_pieces(chunks: Iterable[Sequence[int]], pieces: TextPieces) -> Iterator[str]:
    """Yield the text of tokens as they come, in pieces that are not empty."""
    for tokens in chunks:
        piece = pieces.feed(tokens)
        if piece:
            yield piece
        if pieces.stopped:
            break
    piece = pieces.finish()
    if piece:
        yield piece


def _start_of_beginning(text: str, strings: Sequence[str]) -> int:
    """Return where the longest end of a text starts that is the beginning of one of the strings."""
    start = len(text)
    for string in strings:
        lengths = range(min(len(string) - 1, len(text)), 0, -1)
        longest = next((length for length in lengths if text.endswith(string[:length])), 0)
        start = min(start, len(text) - longest)
    return start
