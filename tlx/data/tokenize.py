"""Writes a token cache: documents in order, encoded by threads, checked token by token."""

import collections
import concurrent.futures
import hashlib
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeVar

import numpy as np
from tqdm import tqdm

from tlx.base.errors import DataError
from tlx.base.files import write_json
from tlx.data.cache import FORMAT, META, OFFSETS, REPLIES, TOKENS, token_dtype
from tlx.data.sources import Document, Source
from tlx.data.turns import conversation
from tlx.text import Tokenizer, Vocabulary

_CHUNK = 1 << 20  # characters of text that one thread encodes at a time

X = TypeVar("X")
Y = TypeVar("Y")


class _Encoded(NamedTuple):
    tokens: np.ndarray  # of the cache's dtype, all documents of a chunk
    lengths: np.ndarray  # int64, tokens of each
    replies: np.ndarray  # int64, where the turns behind a conversation's first begin in `tokens`
    num_bytes: int  # of their text


def write_cache(folder: pathlib.Path, source: Source, tokenizer: Tokenizer, add_eos: bool) -> None:
    """Fills `folder` with tokens.bin, offsets.bin, meta.json, and replies.bin where there are conversations.

    Tokenizers encode outside the interpreter lock, so threads use all cores, and nothing that the caller
    has running (JAX) is forked. DataError names the document with a token outside the vocabulary.
    """
    dtype = token_dtype(tokenizer.vocab.size)
    digest = hashlib.sha256()
    lengths: list[np.ndarray] = []
    replies: list[np.ndarray] = []
    max_token = num_bytes = num_tokens = 0
    bar = tqdm(
        total=source.num_bytes, desc=f"tokenizing {source.name}", unit="B", unit_scale=True, disable=None
    )
    with bar, (folder / TOKENS).open("wb") as out:
        for part in _ordered_map(lambda chunk: _encode(chunk, tokenizer, add_eos), _chunks(source)):
            out.write(part.tokens.tobytes())
            digest.update(part.tokens)
            lengths.append(part.lengths)
            replies.append(part.replies + num_tokens)
            num_tokens += len(part.tokens)
            max_token = max(max_token, int(part.tokens.max()))
            num_bytes += part.num_bytes
            bar.update(part.num_bytes)
    if not lengths:
        raise DataError(f"{source.name} has no documents")
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int64)
    digest.update(offsets)
    (folder / OFFSETS).write_bytes(offsets.tobytes())
    if num_replies := sum(map(len, replies)):
        turns = np.concatenate(replies)
        digest.update(turns)
        (folder / REPLIES).write_bytes(turns.tobytes())
    assert offsets[-1] * dtype.itemsize == (folder / TOKENS).stat().st_size
    write_json(
        folder / META,
        {
            "format": FORMAT,
            "source": source.name,
            "parallel": source.parallel,
            "tokenizer": tokenizer.hash,
            "vocab_size": tokenizer.vocab.size,
            "num_documents": len(offsets) - 1,
            "num_tokens": int(offsets[-1]),
            "num_replies": num_replies,
            "num_bytes": num_bytes,
            "max_token": max_token,
            "fingerprint": digest.hexdigest(),
        },
    )


def documents(source: Source) -> Iterator[Document]:
    """All documents of a source, in order."""
    for part in source.parts:
        yield from source.read(part)


def _chunks(source: Source) -> Iterator[list[Document]]:
    chunk: list[Document] = []
    size = 0
    for document in documents(source):
        chunk.append(document)
        size += sum(map(len, document.texts))
        if size >= _CHUNK:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _encode(chunk: list[Document], tokenizer: Tokenizer, add_eos: bool) -> _Encoded:
    vocab = tokenizer.vocab
    num_bytes = sum(_num_bytes(document) for document in chunk)
    encoded = tokenizer.encode_batch([text for document in chunk for text in document.texts])
    names = (document for document in chunk for _ in document.texts)
    for document, ids in zip(names, encoded, strict=True):
        if not len(ids) or ids.min() < 0 or ids.max() >= vocab.size:
            raise DataError(_outside(document, ids, vocab.size))
    begins = None
    if any(document.replies for document in chunk):
        encoded, begins = _conversations(chunk, encoded, tokenizer.vocab)
    lengths = np.array([len(ids) + add_eos for ids in encoded], np.int64)
    if add_eos:
        eos = np.array([vocab.eos], np.int32)
        encoded = [piece for ids in encoded for piece in (ids, eos)]
    tokens = np.concatenate(encoded).astype(token_dtype(vocab.size))
    if begins is None:
        return _Encoded(tokens, lengths, np.zeros(0, np.int64), num_bytes)
    starts = np.cumsum(lengths) - lengths
    replies = [start + own[1:] for start, own in zip(starts, begins, strict=True)]
    return _Encoded(tokens, lengths, np.concatenate(replies), num_bytes)


def _conversations(
    chunk: list[Document], encoded: list[np.ndarray], vocab: Vocabulary
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """(the tokens of each document, where its turns begin in them)."""
    turns = iter(encoded)
    made = [
        conversation([next(turns) for _ in document.texts], document.ratings, vocab) for document in chunk
    ]
    return [tokens for tokens, _ in made], [begins for _, begins in made]


def _outside(document: Document, ids: np.ndarray, size: int) -> str:
    if not len(ids):
        return f"{document.name}: the tokenizer makes no tokens of it"
    at = int(np.argmax((ids < 0) | (ids >= size)))
    return f"{document.name}: token {ids[at]} at place {at} is outside the vocabulary of {size} ids"


def _num_bytes(document: Document) -> int:
    try:
        return sum(len(text.encode()) for text in document.texts)
    except UnicodeEncodeError as error:
        raise DataError(f"{document.name} holds half a surrogate pair: {error}") from error


def _ordered_map(function: Callable[[X], Y], values: Iterable[X]) -> Iterator[Y]:
    """`map` over threads, results in order, with no more than two values a thread in memory."""
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    waiting: collections.deque[concurrent.futures.Future[Y]] = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(threads, thread_name_prefix="tokenize") as pool:
        for value in values:
            waiting.append(pool.submit(function, value))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
