"""SentencePiece vocabularies that are lossless.

Text is not normalised, a newline is a separate symbol, and unknown characters are encoded as bytes.
"""

import functools
import hashlib
import io
import os
import pathlib
import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import sentencepiece

from tlx.base.errors import ConfigError, DataError
from tlx.base.files import atomic_open
from tlx.text import export
from tlx.text.config import TokenizerConfig
from tlx.text.pieces import Pieces, special_names
from tlx.text.tokenizer import write_definition
from tlx.text.vocabulary import NUM_SENTINELS, SPECIAL_PIECES, Vocabulary

_MODEL = "sentencepiece.model"
_SPACE = "\u2581"  # how SentencePiece writes a space; in a text it would be decoded to a space
_LINE = 4096  # maximum characters of a line of training text: longer ones (minified code) are split
_THREADS = 8  # fixed: unigram training sums counts by thread, so the result depends on their number


class SentencePieceTokenizer:
    """Tokenizer of a SentencePiece model with 7 special ids, newline, 256 bytes, pieces and 100 sentinels."""

    def __init__(self, model: bytes):
        self._model = model
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.vocab = Vocabulary(self._processor.get_piece_size())
        self._names = special_names(self.vocab.size)
        self._pieces = Pieces(self.vocab, [self._bytes(index) for index in range(self.vocab.size)])
        self._space_ids = [self._processor.piece_to_id(f"<0x{value:02X}>") for value in _SPACE.encode()]
        self.starts_word = self._pieces.starts_word
        self.ends_sentence = self._pieces.ends_sentence
        self.num_bytes = self._pieces.num_bytes
        self.hash = hashlib.sha256(model).hexdigest()

    def __reduce__(self) -> tuple[Any, ...]:
        return SentencePieceTokenizer, (self._model,)

    @classmethod
    def make(cls, config: TokenizerConfig, texts: Iterable[str]) -> "SentencePieceTokenizer":
        """Train on `texts`. Raises ConfigError where the vocabulary size does not suit the text."""
        lines = list(_lines(texts))
        model = _train(config, lines)
        processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        if processor.piece_to_id(_SPACE) == processor.unk_id():
            # Too rare to be in the vocabulary, a space would come back as the mark that stands for it. Only then:
            # what a model was trained with is stored in it, and in the hash of every other vocabulary.
            model = _train(config, lines, required_characters=_SPACE)
        return cls(_with_sentinels(model))

    @classmethod
    def load(cls, folder: pathlib.Path, definition: dict[str, Any]) -> "SentencePieceTokenizer":
        """Read sentencepiece.model. Raises DataError where its sha256 is not the one in tokenizer.json."""
        path = folder / _MODEL
        try:
            model = path.read_bytes()
        except OSError as error:
            raise DataError(f"cannot read the tokenizer: {error}") from error
        if hashlib.sha256(model).hexdigest() != definition["hash"]:
            raise DataError(f"{path} is damaged: its sha256 is not the one in tokenizer.json")
        return cls(model)

    def save(self, folder: str | os.PathLike) -> None:
        """Write sentencepiece.model and tokenizer.json."""
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_open(folder / _MODEL, "wb") as handle:
            handle.write(self._model)
        write_definition(folder, {"kind": "sentencepiece", "hash": self.hash, "size": self.vocab.size})

    def export(self, folder: str | os.PathLike, frame: tuple[Sequence[int], Sequence[int]]) -> None:
        """Write tokenizer.json for other programs; `frame` holds the ids added before and after a text."""
        size = self.vocab.size
        pieces = [self.piece(index).replace(_SPACE, " ") for index in range(size)]
        scores = [self._processor.get_score(index) for index in range(size)]
        text_ids = {i for i in range(size) if i not in self._names and not self._processor.is_byte(i)}
        # Scores of BPE are 0, -1, -2 ... in the order of merging; those of unigram are log-probabilities.
        if all(scores[index] == round(scores[index]) for index in text_ids):
            tokenizer = export.byte_pair_tokenizer(pieces, scores, text_ids)
        else:
            tokenizer = export.unigram_tokenizer(pieces, scores)
        export.write(folder, tokenizer, self.vocab, self._names, frame)

    def encode(self, text: str) -> list[int]:
        """Encode a text, without adding special ids."""
        if _SPACE in text:
            return self._encode_around_space_mark(text)
        return self._processor.encode(text, out_type=int)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Encode texts to int32 arrays in one thread, outside the interpreter lock, so that callers can thread."""
        encoded = self._processor.encode(list(texts), out_type=int, num_threads=1)
        for row, text in enumerate(texts):
            if _SPACE in text:
                encoded[row] = self._encode_around_space_mark(text)
        return [np.array(ids, np.int32) for ids in encoded]

    def count_bytes(self, text: str) -> int:
        """Count the UTF-8 bytes of a text, all of which its ids stand for."""
        return len(text.encode())

    def decode(self, ids: Sequence[int] | np.ndarray, *, keep_special: bool = False) -> str:
        """Decode ids; special ids are dropped unless `keep_special`."""
        if keep_special:
            return self._pieces.decode_named(ids, self._names)
        return self._pieces.decode(ids)

    def piece_bytes(self, index: int) -> bytes:
        """Return the text that one id stands for, in UTF-8; empty for a special id."""
        return self._pieces.bytes[index]

    def piece(self, index: int) -> str:
        """Return an id as SentencePiece writes it: "▁the", "<0xEA>", "<mask>"."""
        return self._names.get(index) or self._processor.id_to_piece(int(index))

    def _encode_around_space_mark(self, text: str) -> list[int]:
        """Encode a text that contains the space mark itself: the mark becomes its three bytes."""
        parts = text.split(_SPACE)
        ids = self._processor.encode(parts[0], out_type=int)
        for part in parts[1:]:
            ids += self._space_ids + self._processor.encode(part, out_type=int)
        return ids

    def _bytes(self, index: int) -> bytes:
        if index in self._names:
            return b""
        piece = self._processor.id_to_piece(index)
        if self._processor.is_byte(index):
            return bytes([int(piece[3:5], 16)])
        return piece.replace(_SPACE, " ").encode()


def _train(config: TokenizerConfig, lines: Sequence[str], required_characters: str = "") -> bytes:
    model = io.BytesIO()
    train = functools.partial(
        sentencepiece.SentencePieceTrainer.train,
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type=config.model_type,
        vocab_size=config.vocab_size - NUM_SENTINELS,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        byte_fallback=True,
        user_defined_symbols=["\n"],
        control_symbols=list(SPECIAL_PIECES[4:]),
        pad_id=0,
        unk_id=1,
        bos_id=2,
        eos_id=3,
        max_sentence_length=4 * _LINE,
        num_threads=_THREADS,
        minloglevel=2,
    )
    if required_characters:
        train = functools.partial(train, required_chars=required_characters)
    try:
        train()
    except RuntimeError as error:
        raise ConfigError(_training_error(config, str(error))) from error
    return model.getvalue()


def _lines(texts: Iterable[str]) -> Iterator[str]:
    """Yield lines of limited length: a newline is a separate symbol, so no piece can contain one."""
    for text in texts:
        for line in text.split("\n"):
            for start in range(0, len(line), _LINE):
                yield line[start : start + _LINE]


def _training_error(config: TokenizerConfig, message: str) -> str:
    """Error message of SentencePiece, with its sizes corrected by the sentinels, which it does not count."""
    start = f"tokenizer.vocab_size = {config.vocab_size} does not suit this text: "
    if limit := re.search(r"value <= (\d+)", message):
        return start + f"it can fill at most {int(limit[1]) + NUM_SENTINELS} ids"
    if limit := re.search(r"required_chars\. \d+ vs (\d+)", message):
        return start + f"its characters alone need {int(limit[1]) + NUM_SENTINELS} ids"
    return start + message


def _with_sentinels(model: bytes) -> bytes:
    """Append the sentinels to a model as control pieces, <extra_id_0> last.

    Concatenated protocol buffers merge, and repeated fields append: ModelProto.pieces is field 1, a piece
    is (1: string, 2: float score, 3: type, of which 3 is CONTROL).
    """
    extra = bytearray()
    for index in reversed(range(NUM_SENTINELS)):
        name = f"<extra_id_{index}>".encode()
        piece = b"\x0a" + bytes([len(name)]) + name + b"\x15" + struct.pack("<f", 0.0) + b"\x18\x03"
        extra += b"\x0a" + bytes([len(piece)]) + piece
    return model + bytes(extra)
