"""Log-probabilities of given texts, token by token, under a model of any shape.

decoder: each token after those before it, the first after the ids that a text starts from (Frame). encoder: each
token alone masked, all others visible (pseudo-log-likelihood, Salazar et al. 2020: one row per token). bilstm: its
forward direction, as a decoder. two_stream: read left to right. encoder_decoder: each token of a target text after
those before it, given a source.

Texts longer than the training length are read in windows that overlap by half, so that every token but the
first ones has at least half a window of context.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from tlx.base.errors import ConfigError
from tlx.decode.padding import bucket
from tlx.nn.losses import token_losses
from tlx.objectives.shared.base import ObjectiveModule
from tlx.text.frames import Frame
from tlx.text.vocabulary import Vocabulary

MAX_ROWS = 32
# Largest number of logits of one batch, which bounds its memory.
MAX_LOGITS = 2**25


class ScoringRow(NamedTuple):
    """One row of a batch, and the tokens that its last targets score."""

    example: dict[str, np.ndarray]
    """Arrays of the row, [T] each."""
    text: int
    """Index of the text."""
    first: int
    """Position in the text of the first token scored."""
    num_targets: int
    """Number of tokens scored: the row's last targets."""


def log_probs(
    module: ObjectiveModule,
    params: Any,
    texts: Sequence[Sequence[int]],
    vocab: Vocabulary,
    length: int,
    frame: Frame,
    sources: Sequence[Sequence[int]] | None = None,
    characters: np.ndarray | None = None,
) -> list[np.ndarray]:
    """Compute the natural log-probability of each token of each text.

    Args:
        module: An objective's module.
        params: Its parameters {"model": ..., "heads": ...}.
        texts: Token ids of each text, without special ids around it.
        vocab: The vocabulary, with its special ids.
        length: Tokens of the longest row given to the model, its training length.
        frame: The form of the texts, in which no name is open.
        sources: Token ids that an encoder-decoder's encoder reads, one sequence per text; None for others.
        characters: Character ids of each token [V, characters], for a model that reads them; else None.

    Returns:
        float64 [number of tokens] of each text.

    Raises:
        ConfigError: sources do not fit the kind of model, or the number of texts.
    """
    kind = module.model.kind
    if (kind == "encoder_decoder") != (sources is not None):
        raise ConfigError(
            "an encoder-decoder scores a text given a source: pass one prompt for each text"
            if sources is None
            else f"a model of kind {kind!r} scores texts alone, without prompts"
        )
    if sources is not None and len(sources) != len(texts):
        raise ConfigError(f"{len(sources)} prompts were given for {len(texts)} texts")
    rows = [
        row
        for number, text in enumerate(texts)
        for row in _text_rows(kind, number, np.asarray(text, np.int32), vocab, length, frame, sources)
    ]
    results = [np.zeros(len(text)) for text in texts]
    for batch in _batches(rows, module.model.padded_vocab):
        arrays = _collate(batch, vocab)
        if characters is not None:
            arrays["characters"] = characters[arrays["tokens"]]
        scored = np.asarray(_score(module, params, arrays))
        for row, scores in zip(batch, scored, strict=False):
            end = len(row.example["targets"])
            results[row.text][row.first : row.first + row.num_targets] = scores[end - row.num_targets : end]
    return results


def windows(length: int, size: int) -> Iterator[tuple[int, int, int]]:
    """Yield (begin, end, first to score) of windows of at most `size` that score each token once."""
    begin = 0
    end = min(size, length)
    first = 0
    while first < length:
        yield begin, end, first
        first = end
        end = min(length, end + size - size // 2)
        begin = end - size


@functools.partial(jax.jit, static_argnums=0)
def _score(module: ObjectiveModule, params: Any, batch: dict[str, jax.Array]) -> jax.Array:
    """Return log-probabilities, float32 in the shape of the targets."""
    (hidden, unembedding), _ = module.apply({"params": params}, batch, None, None, method="predictions")
    return -token_losses(hidden, unembedding, batch["targets"])[0]


def _text_rows(
    kind: str,
    number: int,
    text: np.ndarray,
    vocab: Vocabulary,
    length: int,
    frame: Frame,
    sources: Sequence[Sequence[int]] | None,
) -> Iterator[ScoringRow]:
    """Yield the rows of a text for a model of a kind."""
    if kind == "encoder":
        return _encoder_rows(number, text, vocab.mask, length, frame)
    if kind == "two_stream":
        return _two_stream_rows(number, text, length, frame)
    if kind == "encoder_decoder":
        assert sources is not None
        return _encoder_decoder_rows(number, text, frame, sources[number])
    return _decoder_rows(number, text, length, frame)


def _decoder_rows(number: int, text: np.ndarray, length: int, frame: Frame) -> Iterator[ScoringRow]:
    first = np.array(frame.first, np.int32)
    lead = len(first) - 1
    inputs = np.concatenate([first, text])
    for begin, end, start in windows(len(text), length - lead):
        # A code stands before each row in training; what else stands before a text is left behind.
        if frame.mark == "code" or begin == 0:
            tokens = np.concatenate([first, text[begin : end - 1]])
        else:
            tokens = inputs[lead + begin : lead + end]
        targets = np.concatenate([first[len(first) - (len(tokens) - (end - begin)) :], text[begin:end]])
        yield ScoringRow({**document_arrays(tokens), "targets": targets}, number, start, end - start)


def _two_stream_rows(number: int, text: np.ndarray, length: int, frame: Frame) -> Iterator[ScoringRow]:
    first = np.array(frame.first, np.int32)
    inputs = np.concatenate([first, text])
    lead = len(first) - 1
    for begin, end, start in windows(len(text), length - len(first)):
        yield ScoringRow(left_to_right(inputs[lead + begin : lead + end + 1]), number, start, end - start)


def _encoder_rows(
    number: int, text: np.ndarray, mask: int, length: int, frame: Frame
) -> Iterator[ScoringRow]:
    for begin, end, first in windows(len(text), length - len(frame.before) - len(frame.after)):
        inputs = np.concatenate([frame.before, text[begin:end], frame.after]).astype(np.int32)
        langs = {"langs": np.full(len(inputs), frame.languages[0])} if frame.languages else {}
        for target in range(first, end):
            position = target - begin + len(frame.before)
            masked = np.where(np.arange(len(inputs)) == position, mask, inputs)
            example = {"target_positions": np.array([position]), "targets": text[target : target + 1]}
            yield ScoringRow({**document_arrays(masked), **langs, **example}, number, target, 1)


def _encoder_decoder_rows(
    number: int, text: np.ndarray, frame: Frame, source: Sequence[int]
) -> Iterator[ScoringRow]:
    if len(text):
        inputs = np.concatenate([frame.prompt, text]).astype(np.int32)
        example = {
            **document_arrays(np.asarray(source), "encoder_"),
            **document_arrays(inputs[:-1], "decoder_"),
        }
        yield ScoringRow({**example, "targets": inputs[1:]}, number, 0, len(text))


def document_arrays(tokens: np.ndarray, prefix: str = "") -> dict[str, np.ndarray]:
    """Return tokens, positions and segments of one document, [T] each."""
    return {
        prefix + "tokens": tokens,
        prefix + "positions": np.arange(len(tokens)),
        prefix + "segments": np.ones(len(tokens), np.int32),
    }


def left_to_right(tokens: np.ndarray) -> dict[str, np.ndarray]:
    """Return a two-stream example in the order of the text: every token but the first is a target."""
    order = np.arange(len(tokens))
    ranks = {"rank": order, "query_rank": order}
    return {**document_arrays(tokens), **ranks, "target_positions": order[1:], "targets": tokens[1:]}


def _batches(rows: list[ScoringRow], padded_vocab: int) -> Iterator[list[ScoringRow]]:
    """Group rows of similar length into batches whose logits fit MAX_LOGITS."""
    rows = sorted(rows, key=lambda row: _widest(row.example))
    while rows:
        logits = bucket(len(rows[-1].example["targets"])) * padded_vocab
        count = max(1, min(MAX_ROWS, MAX_LOGITS // logits))
        yield rows[-count:]
        rows = rows[:-count]


def _collate(batch: list[ScoringRow], vocab: Vocabulary) -> dict[str, np.ndarray]:
    """Stack rows at their bucket's width and pad their number to a power of two (segment 0)."""
    arrays = {}
    for name in batch[0].example:
        values = [row.example[name] for row in batch]
        longest = max(map(len, values))
        width = longest if longest == 1 else bucket(longest)
        fill = vocab.pad if name.endswith("tokens") else 0
        arrays[name] = np.full((bucket(len(values), 1), width), fill, np.int32)
        for row, value in enumerate(values):
            arrays[name][row, : len(value)] = value
    return arrays


def _widest(example: dict[str, np.ndarray]) -> int:
    return max(map(len, example.values()))
