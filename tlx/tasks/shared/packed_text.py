"""What tasks of decoders share whose rows hold one text or several, and ask for some of their tokens.

A text is cut to pieces that fit a row. A row of training holds as many pieces as fit it where the config says
`packing`: positions begin anew with each, and no piece sees another, so that the loss is that of the pieces
alone. Evaluation has a row for each piece, and says how many nats each text takes.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tlx.base.term import Term, Terms
from tlx.nn.losses import WHOLE, cross_entropy
from tlx.tasks.shared.base import Batch, TaskSpec
from tlx.tasks.shared.generative import GenerationModule
from tlx.tasks.shared.inputs import pad_to_length


class PackedSegment(NamedTuple):
    """Tokens int32 [n] in their order, and bool [n], which of them are asked for (never the first)."""

    tokens: np.ndarray
    asked: np.ndarray


class PackedRow(NamedTuple):
    """An item: the pieces of a row, and the record that they (or the first of them) are from."""

    pieces: tuple[PackedSegment, ...]
    record: int = 0


def size(item: PackedRow, spec: TaskSpec) -> int:
    """Places that an item takes in a row."""
    del spec  # a trained prompt is among the tokens
    return sum(len(piece.tokens) - 1 for piece in item.pieces)


def join(items: Sequence[PackedRow]) -> PackedRow:
    """One item of several."""
    return PackedRow(tuple(piece for item in items for piece in item.pieces), items[0].record)


def pieces_of(tokens: np.ndarray, asked: np.ndarray, spec: TaskSpec) -> list[PackedSegment]:
    """The pieces of a text, each token asked for in one at most: a piece begins with the last token of the
    one before, and a trained prompt stands behind it."""
    room = spec.length - len(spec.prompt)
    prompt, silent = np.array(spec.prompt, np.int32), np.zeros(len(spec.prompt) + 1, bool)
    found = []
    for start in range(0, max(len(tokens) - 1, 1), room):
        text, wanted = tokens[start + 1 : start + 1 + room], asked[start + 1 : start + 1 + room]
        ids = np.concatenate([tokens[start : start + 1], prompt, text]).astype(np.int32)
        found.append(PackedSegment(ids, np.concatenate([silent, wanted])))
    return found


def blank(spec: TaskSpec) -> PackedRow:
    """An item of no text."""
    del spec
    return PackedRow(())


def example(rng: np.random.Generator, item: PackedRow, spec: TaskSpec) -> dict[str, np.ndarray]:
    """tokens, positions, segments, targets and weights, [length] each; pieces count from segment 1."""
    del rng
    pad, length = spec.vocab.pad, spec.length
    none = [np.zeros(0, np.int32)]
    sizes = [len(piece.tokens) - 1 for piece in item.pieces]
    asked = np.concatenate([piece.asked[1:] for piece in item.pieces] + none).astype(bool)
    targets = np.concatenate([piece.tokens[1:] for piece in item.pieces] + none)
    weights = np.zeros(length, np.float32)
    weights[: len(asked)] = asked
    return {
        "tokens": pad_to_length(
            np.concatenate([piece.tokens[:-1] for piece in item.pieces] + none), length, pad
        ),
        "positions": pad_to_length(np.concatenate([np.arange(count) for count in sizes] + none), length),
        "segments": pad_to_length(np.repeat(np.arange(1, len(sizes) + 1), sizes), length),
        "targets": pad_to_length(np.where(asked, targets, pad), length, pad),
        "weights": weights,
    }


class PackedModule(GenerationModule):
    """A decoder, without a head of the task's own."""

    def evaluated(self, batch: Batch) -> tuple[Terms, dict[str, jax.Array]]:
        """(terms, nats [B] of each row)."""
        (hidden, unembedding), _ = self.predictions(batch)
        many = batch["targets"].size * unembedding.num_rows > WHOLE
        loss = dataclasses.replace(self.loss, chunk=self.loss.chunk or (128 if many else 0))

        def row(hidden_TD: jax.Array, targets_T: jax.Array, weights_T: jax.Array) -> tuple[jax.Array, ...]:
            terms = cross_entropy(hidden_TD[None], unembedding, targets_T[None], weights_T[None], loss)
            return terms["loss"].sum, terms["accuracy"].sum

        nats_B, right_B = jax.vmap(row)(hidden, batch["targets"], batch["weights"])
        count = jnp.sum(batch["weights"])
        terms = {"loss": Term(nats_B.sum(), count, 1.0), "token_accuracy": Term(right_B.sum(), count)}
        return terms, {"nats": nats_B}


def likelihoods(
    outputs: Mapping[str, np.ndarray], items: Sequence[PackedRow], spec: TaskSpec
) -> list[dict[str, Any]]:
    """{"nats", "tokens", "bytes"} of each record: of all that is asked for in it."""
    found: dict[int, dict[str, Any]] = {}
    for nats, item in zip(outputs["nats"], items, strict=True):
        asked = np.concatenate([piece.tokens[piece.asked] for piece in item.pieces])
        total = found.setdefault(item.record, {"nats": 0.0, "tokens": 0, "bytes": 0})
        total["nats"] += float(nats)
        total["tokens"] += len(asked)
        total["bytes"] += int(spec.tokenizer.num_bytes[asked].sum())
    return [found[number] for number in sorted(found)]
