"""Parts of tasks of decoders whose rows hold one text or several, of whose tokens some are predicted.

A text is cut to segments that fit a row. A row of training holds as many segments as fit it where the config
says `packing`: positions begin anew with each, and no segment sees another, so that the loss is that of the
segments alone. Evaluation has a row for each segment, and returns how many nats each text takes.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from typing_extensions import override

from tlx.base.term import Term, Terms
from tlx.nn.losses import WHOLE, cross_entropy
from tlx.objectives.shared.arrays import pad_to_length
from tlx.tasks.shared.base import Batch, Task, TaskSpec
from tlx.tasks.shared.generative import GenerationModule
from tlx.text.lossless import decoded_bytes


class PackedSegment(NamedTuple):
    """A piece of a text."""

    tokens: np.ndarray
    """int32 [n]."""
    predicted: np.ndarray
    """bool [n], which of them are predicted; never the first."""


class PackedRow(NamedTuple):
    """The segments of a row."""

    pieces: tuple[PackedSegment, ...]
    """The segments, in order."""
    record: int = 0
    """Index of the record that they, or the first of them, are from."""


def cut_segments(tokens: np.ndarray, predicted: np.ndarray, spec: TaskSpec) -> list[PackedSegment]:
    """Cut a text to segments.

    A segment begins with the last token of the one before, and a trained prompt follows that token; each
    token is predicted in one segment at most.

    Args:
        tokens: int32 ids of the text, special ids included.
        predicted: bool [n], which of them are predicted.
        spec: What examples depend on.

    Returns:
        The segments, one at least.
    """
    room = spec.length - len(spec.prompt)
    prompt = np.array(spec.prompt, np.int32)
    not_predicted = np.zeros(len(spec.prompt) + 1, bool)
    segments = []
    for start in range(0, max(len(tokens) - 1, 1), room):
        piece = slice(start + 1, start + 1 + room)
        ids = np.concatenate([tokens[start : start + 1], prompt, tokens[piece]]).astype(np.int32)
        segments.append(PackedSegment(ids, np.concatenate([not_predicted, predicted[piece]])))
    return segments


class PackedModule(GenerationModule):
    """A decoder, without a head of the task's own."""

    @override
    def evaluated(self, batch: Batch) -> tuple[Terms, dict[str, jax.Array]]:
        """Return the terms, and the nats [B] of each row."""
        (hidden, unembedding), _ = self.predictions(batch)
        # More logits than WHOLE are computed in chunks of tokens, to bound their memory.
        many = batch["targets"].size * unembedding.num_rows > WHOLE
        loss = dataclasses.replace(self.loss, chunk=self.loss.chunk or (128 if many else 0))

        def row(hidden_TD: jax.Array, targets_T: jax.Array, weights_T: jax.Array) -> tuple[jax.Array, ...]:
            terms = cross_entropy(hidden_TD[None], unembedding, targets_T[None], weights_T[None], loss)
            return terms["loss"].sum, terms["accuracy"].sum

        nats_B, right_B = jax.vmap(row)(hidden, batch["targets"], batch["weights"])
        count = jnp.sum(batch["weights"])
        terms = {"loss": Term(nats_B.sum(), count, 1.0), "token_accuracy": Term(right_B.sum(), count)}
        return terms, {"nats": nats_B}


class PackedTextTask(Task):
    """Base of tasks of decoders whose rows hold one text or several."""

    module = PackedModule
    kinds = ("decoder",)
    one_to_many = True

    @override
    def packs(self, config: Any) -> bool:
        """Return config.packing."""
        return config.packing

    @override
    def example_size(self, item: PackedRow, spec: TaskSpec) -> int:
        """Return how many tokens of a row the segments of an item take."""
        del spec  # a trained prompt is among the tokens
        return sum(len(piece.tokens) - 1 for piece in item.pieces)

    @override
    def join(self, items: Sequence[PackedRow]) -> PackedRow:
        """Return one item of the segments of several."""
        return PackedRow(tuple(piece for item in items for piece in item.pieces), items[0].record)

    @override
    def empty_item(self, spec: TaskSpec) -> PackedRow:
        """Return an item of no text."""
        del spec
        return PackedRow(())

    @override
    def example(self, rng: np.random.Generator, item: PackedRow, spec: TaskSpec) -> dict[str, np.ndarray]:
        """Make a row whose targets are its next tokens.

        item: The segments of the row.

        Returns:
            tokens, positions, segments (from 1), targets and weights [length].
        """
        del rng
        pad = spec.vocab.pad
        length = spec.length
        none = [np.zeros(0, np.int32)]
        sizes = [len(piece.tokens) - 1 for piece in item.pieces]
        inputs = np.concatenate([piece.tokens[:-1] for piece in item.pieces] + none)
        targets = np.concatenate([piece.tokens[1:] for piece in item.pieces] + none)
        predicted = np.concatenate([piece.predicted[1:] for piece in item.pieces] + none).astype(bool)
        positions = np.concatenate([np.arange(count) for count in sizes] + none)
        weights = np.zeros(length, np.float32)
        weights[: len(predicted)] = predicted
        return {
            "tokens": pad_to_length(inputs, length, pad),
            "positions": pad_to_length(positions, length),
            "segments": pad_to_length(np.repeat(np.arange(1, len(sizes) + 1), sizes), length),
            "targets": pad_to_length(np.where(predicted, targets, pad), length, pad),
            "weights": weights,
        }


def likelihoods(
    outputs: Mapping[str, np.ndarray], items: Sequence[Any], spec: TaskSpec
) -> list[dict[str, Any]]:
    """Add up the nats of each record.

    Args:
        outputs: "nats" [items], of `PackedModule.evaluated`.
        items: Items with `pieces` and `record`, one segment each.
        spec: What examples depend on; with the tokenizer.

    Returns:
        {"nats", "tokens", "bytes"} of each record, of all tokens that are predicted in it.
    """
    assert spec.tokenizer is not None
    totals: dict[int, dict[str, Any]] = {}
    for nats, item in zip(outputs["nats"], items, strict=True):
        tokens = np.concatenate([piece.tokens[piece.predicted] for piece in item.pieces])
        total = totals.setdefault(item.record, {"nats": 0.0, "tokens": 0, "bytes": 0})
        total["nats"] += float(nats)
        total["tokens"] += len(tokens)
        total["bytes"] += decoded_bytes(spec.tokenizer, tokens)
    return [totals[number] for number in sorted(totals)]
