"""Rows of two texts, cls A sep B sep, of which the model says whether B is what follows A.

google-research/bert create_pretraining_data.py and google-research/albert's of the same name: a chunk of one
document fills the row (with probability `short_sequence_fraction` only a random part of it, down to 2
tokens), A is a random number of its sentences, at least one and not all. Half of the time B is the rest,
label 0; else label 1: text of another document for BERT (nsp), for ALBERT (sop) A and B in the wrong order.
A chunk of one sentence always gets text of another document, label 1, in both. Where A and B are too long,
the longer one loses a token from a random end until they fit.

What those scripts write to disk here is cut from the text by index: chunks are neighbouring windows of a
document, which may begin or end inside a sentence, and the rest of a chunk whose B came from elsewhere is
not read again (theirs begins the next chunk). Sentences end as ObjectiveSpec.ends_sentence says, and
anywhere where the tokenizer does not know. eos is left out: sep is there in its place.
"""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from typing_extensions import override

from tlx.base.errors import ConfigError
from tlx.base.term import Term, Terms
from tlx.data.window import Window, WindowSpec
from tlx.models.config import ModelConfig
from tlx.models.heads import MaskedHead, PairHead
from tlx.models.transformer import Transformer
from tlx.nn.losses import cross_entropy
from tlx.objectives.shared.arrays import sparse_targets, text_of, with_targets
from tlx.objectives.shared.base import (
    Batch,
    Objective,
    ObjectiveModule,
    ObjectiveSpec,
    Predictions,
    at_positions,
    full_unembedding,
)
from tlx.objectives.shared.masking import Masking, chosen_positions, hide, num_predictions
from tlx.text.frames import Frame

NUM_SPECIAL = 3  # cls, sep and sep


@dataclasses.dataclass(frozen=True)
class Pairing(Masking):
    """Masking, and the fraction of short rows."""

    short_sequence_fraction: float = 0.1
    """Fraction of the rows that are cut to a random length, 0 to 1."""

    def validate(self) -> None:
        """Raise ConfigError as Masking does, and for a rate outside [0, 1]."""
        super().validate()
        if not 0 <= self.short_sequence_fraction <= 1:
            raise ConfigError(
                f"objective.short_sequence_fraction = {self.short_sequence_fraction} must lie in 0..1"
            )


def two_texts(
    rng: np.random.Generator, window: Window, spec: ObjectiveSpec, swap: bool
) -> tuple[np.ndarray, np.ndarray, int]:
    """Cut A and B from a window.

    Args:
        rng: Random generator of the row.
        window: A chunk of one document, and as a second text one of another document.
        spec: What examples depend on.
        swap: Whether label 1 is A and B in the wrong order; else B of the other document.

    Returns:
        (A, B, label): int32 ids of at most spec.length - 3 tokens together; both empty and label 0 where the
        window has no text.
    """
    room = spec.length - NUM_SPECIAL
    chunk = text_of(window)
    chunk = chunk[chunk != spec.vocab.eos]
    assert window.second is not None
    other = text_of(window.second)
    other = other[other != spec.vocab.eos]
    if len(chunk) == 0:
        return chunk, chunk, 0
    target = int(rng.integers(2, room + 1)) if rng.random() < spec.config.short_sequence_fraction else room
    ends = _up_to(sentence_ends(chunk, spec), target)
    alone = len(ends) == 1
    cut = int(ends[0 if alone else rng.integers(len(ends) - 1)])
    a = chunk[:cut]
    b = chunk[cut : ends[-1]]
    label = int(alone or rng.random() < 0.5)
    if label and swap and not alone:
        first = a
        a = b
        b = first
    elif label and len(other):
        b = other[: _up_to(sentence_ends(other, spec), target - cut)[-1]]
    return *truncate_pair(rng, a, b, room), label


def sentence_ends(tokens: np.ndarray, spec: ObjectiveSpec) -> np.ndarray:
    """Return where sentences end (numbers of tokens before their ends), ascending; the last is the text's."""
    if spec.ends_sentence is None:
        return np.arange(1, len(tokens) + 1)
    ends = spec.ends_sentence[tokens]
    last = ends.copy()
    last[:-1] &= ~ends[1:]  # "..." and "?!" and empty lines end one sentence
    last[-1:] = True
    return np.flatnonzero(last) + 1


def truncate_pair(
    rng: np.random.Generator, a: np.ndarray, b: np.ndarray, room: int
) -> tuple[np.ndarray, np.ndarray]:
    """Truncate two texts: the longer one (B where equal) loses one token after the other.

    Args:
        rng: Random generator of the row; each token is lost from a random end.
        a: int32 ids.
        b: int32 ids.
        room: Most tokens of both together.

    Returns:
        What is left of A and of B.
    """
    excess = max(len(a) + len(b) - room, 0)
    shorter = min(len(a), len(b))
    longest_only = min(excess, max(len(a), len(b)) - shorter)
    # Once as long as the other, they take turns, B first.
    turns = excess - longest_only
    lost_a = turns // 2
    lost_b = turns - turns // 2
    if len(a) > len(b):
        lost_a += longest_only
    else:
        lost_b += longest_only
    return _trimmed(rng, a, lost_a), _trimmed(rng, b, lost_b)


def _trimmed(rng: np.random.Generator, text: np.ndarray, lost: int) -> np.ndarray:
    front = int(rng.binomial(lost, 0.5)) if lost else 0
    return text[front : len(text) - (lost - front)]


def _up_to(ends: np.ndarray, target: int) -> np.ndarray:
    """Return the ends of the sentences that it takes to reach `target` tokens, at least one."""
    return ends[: np.searchsorted(ends, target) + 1]


class PairHeads(nn.Module):
    """The parameters "heads/mlm" and "heads/<task>"."""

    model: ModelConfig
    task: str

    def setup(self) -> None:
        """Build both heads."""
        self.mlm = MaskedHead(self.model)
        self.pair = PairHead(self.model, name=self.task)


class PairModule(ObjectiveModule):
    """An encoder with BERT's masked-token transform, and a pooler and classifier on its first token.

    The loss is the mean over masked tokens plus the mean over pairs.
    """

    def setup(self) -> None:
        """Build the language model and the heads."""
        self.lm = Transformer(self.model, name="model")
        self.heads = PairHeads(self.model, self.config.name)

    @override
    def predictions(self, batch: Batch, carry: None, keys: jax.Array | None) -> tuple[Predictions, None]:
        """Return what the masked tokens are predicted from.

        Returns:
            Transformed hidden states [B, P, D] at `target_positions` with the unembedding, and None.
        """
        return self._masked(batch, self.lm(batch, keys=keys)), None

    @override
    def __call__(self, batch: Batch, carry: None = None, keys: jax.Array | None = None) -> tuple[Terms, None]:
        """Return the terms of the masked tokens, and "<name>_loss" and "<name>_accuracy" of the pairs."""
        hidden_BTD = self.lm(batch, keys=keys)
        terms = cross_entropy(*self._masked(batch, hidden_BTD), batch["targets"], batch["weights"], self.loss)
        log_p = jax.nn.log_softmax(self.heads.pair(hidden_BTD).astype(jnp.float32))
        label = batch["label"]
        # A row of nothing but padding has no pair.
        real = (batch["segments"][:, 0] > 0).astype(jnp.float32)
        scores = jnp.take_along_axis(log_p, label[:, None], axis=1)[:, 0]
        hits = jnp.argmax(log_p, axis=1) == label
        name = self.config.name
        count = jnp.sum(real)
        terms[f"{name}_loss"] = Term(-jnp.sum(scores * real), count, 1.0)
        terms[f"{name}_accuracy"] = Term(jnp.sum(hits * real), count)
        return terms, None

    def _masked(self, batch: Batch, hidden_BTD: jax.Array) -> Predictions:
        hidden_BPD = at_positions(hidden_BTD, batch["target_positions"])
        return Predictions(*self.heads.mlm(hidden_BPD, full_unembedding(self.lm.unembedding())))


class PairObjective(Objective):
    """Base of the objectives on pairs of texts, which differ in what label 1 stands for."""

    module = PairModule
    kinds = ("encoder",)
    swap: ClassVar[bool]
    """Whether label 1 is A and B in the wrong order; else B of another document."""

    @override
    def frame(self, spec: ObjectiveSpec) -> Frame:
        """Return cls before a text, sep after each; the second of two texts has a type of its own."""
        vocab = spec.vocab
        return Frame(before=(vocab.cls,), between=(vocab.sep,), after=(vocab.sep,), second_type=1)

    @override
    def clean_example(
        self, texts: Sequence[np.ndarray], spec: ObjectiveSpec, languages: Sequence[int] = (0, 0)
    ) -> dict[str, np.ndarray]:
        """Make a row of two texts in which nothing is hidden."""
        a, b = texts
        return with_targets(self._row(np.random.default_rng(0), a, b, 0, spec))

    @override
    def window_spec(self, spec: ObjectiveSpec) -> WindowSpec:
        """Return pieces of documents with room for cls, sep and sep, and as much of another document."""
        if spec.length < 5:
            raise ConfigError(
                f"data.sequence_length = {spec.length} must be at least 5 for {spec.config.name}"
            )
        room = spec.length - NUM_SPECIAL
        return WindowSpec(length=room, layout="document", second_length=room, copies=spec.config.copies)

    @override
    def example(self, rng: np.random.Generator, window: Window, spec: ObjectiveSpec) -> dict[str, np.ndarray]:
        """Make a row of two texts with masked tokens.

        window: A chunk of one document, and as a second text one of another document.

        Returns:
            tokens, positions, segments, types [length]; target_positions, targets, weights [P]; label [].
        """
        return self._row(rng, *two_texts(rng, window, spec, self.swap), spec)

    def _row(
        self, rng: np.random.Generator, a: np.ndarray, b: np.ndarray, label: int, spec: ObjectiveSpec
    ) -> dict[str, np.ndarray]:
        """Make the row of two texts."""
        vocab = spec.vocab
        count = len(a) + len(b) + NUM_SPECIAL if len(a) else 0
        tokens = np.full(spec.length, vocab.pad, np.int32)
        positions, segments, types = np.zeros((3, spec.length), np.int32)
        chosen = np.zeros(0, np.int64)
        if count:
            tokens[:count] = np.concatenate([[vocab.cls], a, [vocab.sep], b, [vocab.sep]])
            positions[:count] = np.arange(count)
            segments[:count] = 1
            types[len(a) + 2 : count] = 1
            chosen = chosen_positions(rng, tokens[:count], spec, spec.config)
        return {
            "tokens": hide(rng, tokens, chosen, spec, spec.config),
            "positions": positions,
            "segments": segments,
            "types": types,
            "label": np.array(label, np.int32),
            **sparse_targets(tokens, chosen, num_predictions(spec.length, spec.config), vocab.pad),
        }
