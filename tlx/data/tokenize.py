"""Writes token caches: documents in order, encoded by threads, with every token id checked."""

import collections
import concurrent.futures
import functools
import hashlib
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeVar

import numpy as np
from tqdm import tqdm

from tlx.base.errors import DataError
from tlx.base.files import write_json
from tlx.data.bad_records import DEFAULT_POLICY, BadRecord, BadRecordPolicy, SkippedRecords, surrogate_in
from tlx.data.cache import FORMAT, META, OFFSETS, REPLIES, TOKENS, token_dtype
from tlx.data.sources import Document, Source
from tlx.data.turns import conversation
from tlx.text import Tokenizer, Vocabulary

CHUNK = 1 << 20  # characters that one thread encodes at a time

X = TypeVar("X")
Y = TypeVar("Y")


class Encoded(NamedTuple):
    """The tokens of a chunk of documents."""

    tokens: np.ndarray
    """Tokens of all documents, uint16 or uint32 as they are stored."""
    lengths: np.ndarray
    """int64 [documents], tokens of each."""
    replies: np.ndarray
    """int64, positions in `tokens` where turns begin, without the first of each document."""
    num_bytes: int
    """UTF-8 bytes of the text."""
    bad: list[BadRecord]
    """Documents that are left out."""


def write_cache(
    folder: pathlib.Path,
    source: Source,
    tokenizer: Tokenizer,
    add_eos: bool,
    policy: BadRecordPolicy = DEFAULT_POLICY,
) -> None:
    """Write tokens.bin, offsets.bin, meta.json, and replies.bin where there are conversations.

    Tokenizers encode outside the interpreter lock, so threads use all cores; processes would fork JAX, which
    may already be running.

    Args:
        folder: Existing folder to write into.
        source: The documents.
        tokenizer: Encodes them.
        add_eos: Whether to append eos to every document.
        policy: Treatment of documents that cannot be used; meta.json counts those that are skipped.

    Raises:
        DataError: There is no document, or a document (which is named) cannot be used.
    """
    dtype = token_dtype(tokenizer.vocab.size)
    digest = hashlib.sha256()
    lengths: list[np.ndarray] = []
    replies: list[np.ndarray] = []
    max_token = 0
    num_bytes = 0
    num_tokens = 0
    skipped = SkippedRecords(source.name, policy)
    bar = tqdm(
        total=source.num_bytes,
        desc=f"tokenizing {source.name}",
        unit="B",
        unit_scale=True,
        disable=None,  # only on a terminal
    )
    with bar, (folder / TOKENS).open("wb") as out:
        encode = functools.partial(
            encode_chunk, tokenizer=tokenizer, add_eos=add_eos, parallel=source.parallel
        )
        for encoded in ordered_map(encode, _chunks(documents(source, skipped), source.parallel)):
            for record in encoded.bad:
                skipped.add(record)
            if not len(encoded.tokens):
                continue
            out.write(encoded.tokens.tobytes())
            # Hashed while it is in memory: the file is too large to be read once more.
            digest.update(encoded.tokens.data)
            lengths.append(encoded.lengths)
            replies.append(encoded.replies + num_tokens)
            num_tokens += len(encoded.tokens)
            max_token = max(max_token, int(encoded.tokens.max()))
            num_bytes += encoded.num_bytes
            bar.update(encoded.num_bytes)
    if not lengths:
        raise DataError(f"{source.name} has no documents{_left_out(skipped)}{getattr(source, 'remedy', '')}")
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int64)
    digest.update(offsets.data)
    (folder / OFFSETS).write_bytes(offsets.tobytes())
    num_replies = sum(len(starts) for starts in replies)
    if num_replies:
        turn_starts = np.concatenate(replies)
        digest.update(turn_starts.data)
        (folder / REPLIES).write_bytes(turn_starts.tobytes())
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
            **({"skipped": skipped.to_json()} if skipped.to_json() else {}),
        },
    )


def documents(source: Source, skipped: SkippedRecords | None = None) -> Iterator[Document]:
    """Yield all usable documents of a source, in order.

    `skipped` counts the others; None raises DataError for the first that is not just blank.
    """
    skipped = skipped or SkippedRecords(source.name, DEFAULT_POLICY)
    for part in source.parts:
        yield from skipped.filter(source.read(part))


def _left_out(skipped: SkippedRecords) -> str:
    if not skipped.num_bad and not skipped.num_blank:
        return ""
    return f" ({skipped.num_bad:,} could not be used, {skipped.num_blank:,} were empty)"


def _chunks(entries: Iterable[Document], parallel: bool) -> Iterator[list[Document]]:
    """Group documents to chunks of about `CHUNK` characters."""
    chunk: list[Document] = []
    size = 0
    for document in entries:
        chunk.append(document)
        size += sum(map(len, document.texts))
        # A pair stays in one chunk, so that both texts can be left out.
        if size >= CHUNK and not (parallel and len(chunk) % 2):
            yield chunk
            chunk = []
            size = 0
    if chunk:
        yield chunk


def encode_chunk(chunk: list[Document], tokenizer: Tokenizer, add_eos: bool, parallel: bool) -> Encoded:
    """Encode documents, and check each token id.

    Args:
        chunk: The documents; of pairs, both of each.
        tokenizer: Encodes them.
        add_eos: Whether to append eos to every document.
        parallel: Whether documents come in pairs.

    Returns:
        The tokens, and what is left out.

    Raises:
        DataError: The tokenizer makes an id outside of its vocabulary, or none of a text of a pair.
    """
    vocab = tokenizer.vocab
    chunk, bad = _valid(chunk, parallel)
    num_bytes = sum(_num_bytes(document) for document in chunk)
    encoded = tokenizer.encode_batch([text for document in chunk for text in document.texts])
    # A pair or a conversation is not left without one of its texts: those are errors under every policy.
    if not parallel and not any(document.replies for document in chunk):
        chunk, encoded, without_tokens = _with_tokens(chunk, encoded)
        bad += without_tokens
    if not chunk:
        return Encoded(
            np.zeros(0, token_dtype(vocab.size)), np.zeros(0, np.int64), np.zeros(0, np.int64), 0, bad
        )
    document_of_text = (document for document in chunk for _ in document.texts)
    for document, ids in zip(document_of_text, encoded, strict=True):
        # Every id is checked once here, so that training need not.
        if not len(ids) or ids.min() < 0 or ids.max() >= vocab.size:
            raise DataError(_outside(document, ids, vocab.size))
    begins = None
    if any(document.replies for document in chunk):
        encoded, begins = _conversations(chunk, encoded, tokenizer.vocab)
    lengths = np.array([len(ids) + add_eos for ids in encoded], np.int64)
    if add_eos:
        eos = np.array([vocab.eos], np.int32)
        encoded = [array for ids in encoded for array in (ids, eos)]
    tokens = np.concatenate(encoded).astype(token_dtype(vocab.size))
    if begins is None:
        return Encoded(tokens, lengths, np.zeros(0, np.int64), num_bytes, bad)
    starts = np.cumsum(lengths) - lengths
    replies = [start + turn_begins[1:] for start, turn_begins in zip(starts, begins, strict=True)]
    return Encoded(tokens, lengths, np.concatenate(replies), num_bytes, bad)


def _conversations(
    chunk: list[Document], encoded: list[np.ndarray], vocab: Vocabulary
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Join encoded turns to documents: the tokens of each, and the positions in it where its turns begin."""
    encoded_turns = iter(encoded)
    tokens: list[np.ndarray] = []
    begins: list[np.ndarray] = []
    for document in chunk:
        turns = [next(encoded_turns) for _ in document.texts]
        document_tokens, document_begins = conversation(turns, document.ratings, vocab)
        tokens.append(document_tokens)
        begins.append(document_begins)
    return tokens, begins


def _outside(document: Document, ids: np.ndarray, size: int) -> str:
    if not len(ids):
        return f"{document.name}: the tokenizer makes no tokens of it"
    position = int(np.argmax((ids < 0) | (ids >= size)))
    return (
        f"{document.name}: token {ids[position]} at position {position} is outside the vocabulary of "
        f"{size} ids"
    )


def _valid(chunk: list[Document], parallel: bool) -> tuple[list[Document], list[BadRecord]]:
    """Leave out the documents that are not valid Unicode, with their partners where they come in pairs."""
    size = 2 if parallel else 1
    valid = []
    bad = []
    for start in range(0, len(chunk), size):
        record = chunk[start : start + size]
        reasons = ((document, surrogate_in(text)) for document in record for text in document.texts)
        problem = next((f"{document.name} {reason}" for document, reason in reasons if reason), "")
        if problem:
            bad.append(BadRecord(problem))
        else:
            valid += record
    return valid, bad


def _with_tokens(
    chunk: list[Document], encoded: list[np.ndarray]
) -> tuple[list[Document], list[np.ndarray], list[BadRecord]]:
    """Leave out the documents of which the tokenizer makes no tokens."""
    if all(len(ids) for ids in encoded):
        return chunk, encoded, []
    pairs = list(zip(chunk, encoded, strict=True))
    bad = [BadRecord(_outside(document, ids, 0)) for document, ids in pairs if not len(ids)]
    pairs = [pair for pair in pairs if len(pair[1])]
    return [document for document, _ in pairs], [ids for _, ids in pairs], bad


def _num_bytes(document: Document) -> int:
    return sum(len(text.encode()) for text in document.texts)


def ordered_map(function: Callable[[X], Y], values: Iterable[X], threads: int | None = None) -> Iterator[Y]:
    """Map over threads, with results in order and at most two values per thread in memory.

    Args:
        function: Called in the threads.
        values: Its arguments.
        threads: Number of threads; None: one for each core; 1: no other than the caller's.

    Yields:
        The results.
    """
    threads = threads or num_cores()
    if threads == 1:
        yield from map(function, values)
        return
    waiting: collections.deque[concurrent.futures.Future[Y]] = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(threads, thread_name_prefix="tokenize") as pool:
        for value in values:
            waiting.append(pool.submit(function, value))
            # Enough to keep every thread busy; more would only hold text in memory.
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def num_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
