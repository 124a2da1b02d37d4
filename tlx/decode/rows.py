"""Rows that are continued together, each with its own sampling, length and seed, and as their tokens come.

Shapes: A states of the automaton of stop strings.
"""

import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tlx.decode.cached import ChunkedDecoding
from tlx.decode.generate import check, settings_of
from tlx.decode.loop import DecodeInputs, DecodeSettings
from tlx.decode.padding import bucket, pad
from tlx.decode.prefixes import PrefixStore, Split, StoredText, prefix_width
from tlx.decode.sampling import Sampling, SamplingArrays, sampling_arrays
from tlx.text.generation_rules import GenerationRules
from tlx.text.vocabulary import Vocabulary

# Wanted time between two pieces of a text, in seconds, and the most tokens between them.
_SECONDS = 0.1
_MAX_CHUNK = 64


class RowRequest(NamedTuple):
    """One text to continue."""

    prompt: Sequence[int]
    """Token ids; of an encoder-decoder the beginning of the decoder's input."""
    max_tokens: int
    """Largest number of new tokens."""
    sampling: Sampling
    """How tokens are drawn."""
    seed: int = 0
    """Seed of the draws."""
    number: int = 0
    """Number of the text among those of its seed, which have draws of their own."""
    source: Sequence[int] | None = None
    """Token ids that the encoder reads; None for a decoder."""
    rules: GenerationRules | None = None
    """Ids that end the text, and constraints on the others; None: eos ends it, and any id may come."""


class RowShape(NamedTuple):
    """The static shape that all rows of a batch share; programs are compiled for each."""

    prefix: int
    """Entries of the cache for tokens that were read before."""
    rest: int
    """Tokens that are read."""
    source: int
    """Tokens that the encoder reads."""
    settings: DecodeSettings
    """Static values."""


class RowDecoder(NamedTuple):
    """A model that continues rows."""

    lm: nn.Module
    """A Transformer of kind decoder or encoder_decoder."""
    params: Any
    """Its parameters."""
    vocab: Vocabulary
    """Its vocabulary."""
    max_length: int | None
    """Number of positions; None: no limit."""
    prefixes: PrefixStore | None = None
    """Texts that were read before; None: every prompt is read as a whole."""

    def check(self, row: RowRequest) -> None:
        """Raise ConfigError where a row cannot be continued."""
        row.sampling.validate()
        check([row.prompt], None if row.source is None else [row.source], row.max_tokens, self.max_length)

    def shape(self, row: RowRequest) -> RowShape:
        """Return the shape of the batches that a row can be in, now."""
        split = self._split(row)
        rest = len(row.prompt) - split.length
        return RowShape(
            prefix_width(split.length, rest, self.max_length),
            rest if split.length else self._width(rest),
            0 if row.source is None else self._width(len(row.source)),
            settings_of(row.sampling, row.max_tokens, self.vocab, row.rules),
        )

    def begin(
        self, rows: Sequence[RowRequest], shape: RowShape, stops_AV: np.ndarray | None = None
    ) -> ChunkedDecoding:
        """Begin to continue rows of one shape.

        Args:
            rows: The rows; copies of the last one fill the batch up to its bucket.
            shape: Their shape, computed since the store has changed last.
            stops_AV: `decode.stop.automaton` of strings that end a row.

        Returns:
            The continuation.
        """
        rows = [*rows, *[rows[-1]] * (bucket(len(rows), 1) - len(rows))]
        pad_id = self.vocab.pad
        splits = [self._split(row) for row in rows]
        prefix = None
        if shape.prefix:
            assert self.prefixes is not None
            prefix = self.prefixes.arrays(splits, shape.prefix)
        unread = [row.prompt[split.length :] for row, split in zip(rows, splits, strict=True)]
        rest = pad(unread, pad_id, left=True, limit=self.max_length)
        prompt = None
        if prefix is not None and (shape.settings.penalised or shape.settings.rules is not None):
            prompt = pad([row.prompt for row in rows], pad_id, left=True, limit=self.max_length)
        source = None
        if rows[0].source is not None:
            source = pad([row.source or () for row in rows], pad_id, left=False, limit=self.max_length)
        settings = shape.settings
        return ChunkedDecoding(
            self.lm, self.params, rest, source, _inputs(rows, stops_AV), settings, prompt, prefix
        )

    def store(self, decoding: ChunkedDecoding, row: int, prompt: Sequence[int], new: Sequence[int]) -> None:
        """Keep what the model has read of a row, for prompts that begin in the same way.

        Args:
            decoding: The continuation.
            row: Index of the row.
            prompt: Its prompt.
            new: Its new tokens.
        """
        if self.prefixes is not None and self._can_start_anywhere:
            read = [*prompt, *new[: decoding.num_read]]
            self.prefixes.store(read, StoredText(*decoding.stored_row(row)))

    @property
    def _can_start_anywhere(self) -> bool:
        """Whether the cache holds what the model knew at every token: a state is that after the last one."""
        cfg = self.lm.cfg
        return cfg.kind == "decoder" and "state_space" not in cfg.mixer

    def _split(self, row: RowRequest) -> Split:
        if self.prefixes is None or not self._can_start_anywhere:
            return Split(0, None)
        return self.prefixes.split(row.prompt)

    def _width(self, length: int) -> int:
        """Return the width that `pad` gives a row."""
        return max(length, min(bucket(length), self.max_length or bucket(length)))


class Pace:
    """Number of tokens between two pieces of a text, so that they come about every tenth of a second."""

    def __init__(self) -> None:
        """Begin with a token at a time."""
        self.num_tokens = 1
        self._began = time.monotonic()

    def next(self) -> int:
        """Return the number of tokens of the next chunk, by the time since the last call."""
        now = time.monotonic()
        seconds = now - self._began
        self._began = now
        wanted = int(self.num_tokens * _SECONDS / max(seconds, 1e-6))
        self.num_tokens = max(1, min(wanted, 2 * self.num_tokens, _MAX_CHUNK))
        return self.num_tokens


def stream(decoder: RowDecoder, row: RowRequest, stops_AV: np.ndarray | None = None) -> Iterator[list[int]]:
    """Continue one row; the tokens are those of `decode.generate.generate`.

    Args:
        decoder: The model.
        row: The row.
        stops_AV: `decode.stop.automaton` of strings that end the row.

    Yields:
        New tokens, as they come.
    """
    decoding = decoder.begin([row], decoder.shape(row), stops_AV)
    pace = Pace()
    new: list[int] = []
    is_done = False
    while not is_done:
        chunk = decoding.advance(pace.next())
        tokens = chunk.tokens_BT[0, : chunk.counts_B[0]].tolist()
        is_done = bool(chunk.done_B[0])
        if is_done:
            # Before the last tokens are handed out: a caller may take no more of them.
            decoder.store(decoding, 0, row.prompt, tokens)
        yield tokens[len(new) :]
        new = tokens


def _inputs(rows: Sequence[RowRequest], stops_AV: np.ndarray | None) -> DecodeInputs:
    """Return the values of a call, of which each row has its own."""
    keys = [jax.random.fold_in(jax.random.key(row.seed), row.number) for row in rows]
    values = [sampling_arrays(row.sampling) for row in rows]
    stacked = [jnp.stack(column)[:, None] for column in zip(*values, strict=True)]
    max_tokens_B1 = jnp.array([[row.max_tokens] for row in rows], jnp.int32)
    return DecodeInputs(jnp.stack(keys), max_tokens_B1, SamplingArrays(*stacked), stops_AV)
