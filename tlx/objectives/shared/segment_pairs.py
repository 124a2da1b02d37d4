"""Rows of two texts, cls A sep B sep, of which the model says whether B is what follows A.

google-research/bert create_pretraining_data.py and google-research/albert's of the same name: a chunk of one
document fills the row (with probability `short_sequence_fraction` only a random part of it, down to 2
tokens), A is a random number of its sentences, at least one and not all. Half of the time B is the rest,
label 0; else label 1: text of another document for BERT (nsp), for ALBERT (sop) A and B in the wrong order. A
chunk of one sentence always gets text of another document, label 1, in both. Where A and B are too long, the
longer one loses a token from a random end until they fit.

What those scripts write to disk here is cut from the text by index: chunks are neighbouring windows of a
document, which may begin or end inside a sentence, and the rest of a chunk whose B came from elsewhere is
not read again (theirs begins the next chunk). Sentences end as Spec.ends_sentence says, and anywhere where
the tokenizer does not know. eos is left out: sep is there in its place.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tlx.base.errors import ConfigError
from tlx.base.term import Term, Terms
from tlx.data.window import Window, WindowSpec
from tlx.models.config import ModelConfig
from tlx.models.heads import MaskedHead, PairHead
from tlx.models.transformer import Transformer
from tlx.nn.losses import cross_entropy
from tlx.objectives.shared.base import Batch, ObjectiveModule, ObjectiveSpec, Predictions, sparse_targets
from tlx.objectives.shared.masking import Masking, chosen_positions, hide, num_predictions


@dataclasses.dataclass(frozen=True)
class Pairing(Masking):
    """What is masked, and how often a row is cut short."""

    short_sequence_fraction: float = 0.1

    def validate(self) -> None:
        """Raises ConfigError as Masking does, and for a rate outside [0, 1]."""
        super().validate()
        if not 0 <= self.short_sequence_fraction <= 1:
            raise ConfigError(
                f"objective.short_sequence_fraction = {self.short_sequence_fraction} must lie in 0..1"
            )


def pair_reads(spec: ObjectiveSpec) -> WindowSpec:
    """Pieces of documents that leave room for cls, sep and sep, and as much of another document."""
    if spec.length < 5:
        raise ConfigError(f"data.sequence_length = {spec.length} must be at least 5 for {spec.config.name}")
    room = spec.length - 3
    return WindowSpec(length=room, layout="document", second_length=room, copies=spec.config.copies)


def pair_example(
    rng: np.random.Generator, window: Window, spec: ObjectiveSpec, swap: bool
) -> dict[str, np.ndarray]:
    """tokens, positions, segments, types [length]; target_positions, targets, weights [P]; label []."""
    a, b, label = two_texts(rng, window, spec, swap)
    vocab, count = spec.vocab, len(a) + len(b) + 3 if len(a) else 0
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


def two_texts(
    rng: np.random.Generator, window: Window, spec: ObjectiveSpec, swap: bool
) -> tuple[np.ndarray, np.ndarray, int]:
    """(A, B, label); nothing twice and label 0 where the window has no text."""
    room, chunk, other = spec.length - 3, _text(window, spec), _text(window.second, spec)
    if len(chunk) == 0:
        return chunk, chunk, 0
    target = int(rng.integers(2, room + 1)) if rng.random() < spec.config.short_sequence_fraction else room
    ends = _up_to(sentence_ends(chunk, spec), target)
    alone = len(ends) == 1
    cut = int(ends[0 if alone else rng.integers(len(ends) - 1)])
    a, b = chunk[:cut], chunk[cut : ends[-1]]
    label = int(alone or rng.random() < 0.5)
    if label and swap and not alone:
        a, b = b, a
    elif label and len(other):
        b = other[: _up_to(sentence_ends(other, spec), target - cut)[-1]]
    return *truncated(rng, a, b, room), label


def sentence_ends(tokens: np.ndarray, spec: ObjectiveSpec) -> np.ndarray:
    """Where sentences end (counts of tokens before their ends), ascending; the text's end is the last."""
    if spec.ends_sentence is None:
        return np.arange(1, len(tokens) + 1)
    ends = spec.ends_sentence[tokens]
    last = ends.copy()
    last[:-1] &= ~ends[1:]  # "..." and "?!" and empty lines end one sentence
    last[-1:] = True
    return np.flatnonzero(last) + 1


def truncated(
    rng: np.random.Generator, a: np.ndarray, b: np.ndarray, room: int
) -> tuple[np.ndarray, np.ndarray]:
    """A and B of at most `room` tokens together: the longer one (B where equal) loses one after the other."""
    excess = max(len(a) + len(b) - room, 0)
    shorter = min(len(a), len(b))
    longest_only = min(excess, max(len(a), len(b)) - shorter)
    # Once as long as the other, they take turns, B first.
    turns = excess - longest_only
    lost_a, lost_b = turns // 2, turns - turns // 2
    if len(a) > len(b):
        lost_a += longest_only
    else:
        lost_b += longest_only
    return _trimmed(rng, a, lost_a), _trimmed(rng, b, lost_b)


def _trimmed(rng: np.random.Generator, text: np.ndarray, lost: int) -> np.ndarray:
    front = int(rng.binomial(lost, 0.5)) if lost else 0
    return text[front : len(text) - (lost - front)]


def _up_to(ends: np.ndarray, target: int) -> np.ndarray:
    """The ends of the sentences that it takes to reach `target` tokens, at least one."""
    return ends[: np.searchsorted(ends, target) + 1]


def _text(window: Window, spec: ObjectiveSpec) -> np.ndarray:
    tokens = window.tokens[: np.count_nonzero(window.segments)]
    return tokens[tokens != spec.vocab.eos]


class PairHeads(nn.Module):
    """The parameters "heads/mlm" and "heads/<what is said of the pair>"."""

    model: ModelConfig
    task: str

    def setup(self):
        self.mlm = MaskedHead(self.model)
        self.pair = PairHead(self.model, name=self.task)


class PairModule(ObjectiveModule):
    """An encoder with BERT's masked-token transform, and a pooler and classifier on its first token.

    The loss is the mean over masked tokens plus the mean over pairs.
    """

    def setup(self):
        self.lm = Transformer(self.model, name="model")
        self.heads = PairHeads(self.model, self.config.name)

    def predictions(self, batch: Batch, carry: None, keys: jax.Array | None) -> tuple[Predictions, None]:
        """Transformed hidden states [B, P, D] at `target_positions`."""
        return self._masked(batch, self.lm(batch, keys=keys)), None

    def __call__(self, batch: Batch, carry: None = None, keys: jax.Array | None = None) -> tuple[Terms, None]:
        """Terms of the masked tokens, and "<name>_loss" and "<name>_accuracy" of the pairs."""
        hidden_BTD = self.lm(batch, keys=keys)
        terms = cross_entropy(*self._masked(batch, hidden_BTD), batch["targets"], batch["weights"], self.loss)
        log_p = jax.nn.log_softmax(self.heads.pair(hidden_BTD).astype(jnp.float32))
        label, real = batch["label"], (batch["segments"][:, 0] > 0).astype(jnp.float32)
        scores = jnp.take_along_axis(log_p, label[:, None], axis=1)[:, 0]
        hits = jnp.argmax(log_p, axis=1) == label
        name, count = self.config.name, jnp.sum(real)
        terms[f"{name}_loss"] = Term(-jnp.sum(scores * real), count, 1.0)
        terms[f"{name}_accuracy"] = Term(jnp.sum(hits * real), count)
        return terms, None

    def _masked(self, batch: Batch, hidden_BTD: jax.Array) -> Predictions:
        hidden_BPD = jnp.take_along_axis(hidden_BTD, batch["target_positions"][..., None], axis=1)
        return Predictions(*self.heads.mlm(hidden_BPD, self.lm.unembedding()))
