"""What tasks share whose answers are texts that the model writes: rows, the module, what to go on from.

    encoder_decoder    the encoder reads SOURCE eos (or the frame that an imported tokenizer has); the decoder
                       starts from bos and writes TARGET eos
    decoder            bos SOURCE sep TARGET eos

Every token of the target, and eos, is to be predicted, and nothing else. A trained prompt (prompt tuning)
stands before the source. Sources lose their ends where they are too long, targets theirs and the eos. The
room for the source is what the longest target leaves, whatever the row's own target is: what is read while
answers are written is what was read in training.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from tlx.base.errors import ConfigError
from tlx.base.term import Terms
from tlx.nn import embed
from tlx.nn.losses import cross_entropy
from tlx.tasks.shared.base import Batch, GenerationRequest, TaskModule, TaskSpec
from tlx.tasks.shared.heads import hidden_states, language_model
from tlx.tasks.shared.inputs import pad_to_length, token_arrays
from tlx.text.tokenizer import Tokenizer

KINDS = ("encoder_decoder", "decoder")


@dataclasses.dataclass(frozen=True)
class DecodingConfig:
    """How texts are written. target_length: at most so many tokens, eos included. num_beams: 0 is greedy;
    length_penalty is theirs."""

    target_length: int = 64
    num_beams: int = 0
    length_penalty: float = 1.0

    def validate(self) -> None:
        """Raises ConfigError naming the field, its value and what is legal."""
        if self.target_length < 2:
            raise ConfigError(f"objective.target_length = {self.target_length} must be at least 2")
        if self.num_beams < 0:
            raise ConfigError(f"objective.num_beams = {self.num_beams} must be 0 (greedy) or more")


class GenerationItem(NamedTuple):
    """An item: the source with its special ids, the targets (one of which is drawn each time it comes by),
    and from which record it comes."""

    source: np.ndarray
    targets: tuple[np.ndarray, ...]
    record: int = 0


def framed(text: np.ndarray, tokenizer: Tokenizer, spec: TaskSpec) -> np.ndarray:
    """A source with what stands around it, int32 [n]. ConfigError where the row has no room for any."""
    vocab, target = spec.vocab, spec.config.target_length
    if spec.kind == "encoder_decoder":
        before, behind = getattr(tokenizer, "frame", ((), (vocab.eos,)))
        before, room = [*spec.prompt, *before], spec.length
    else:
        before, behind = [vocab.bos, *spec.prompt], [vocab.sep]
        room = spec.length - target
    room -= len(before) + len(behind)
    if room < 1:
        raise ConfigError(
            f"data.sequence_length = {spec.length} leaves no room for a source"
            + (f" beside objective.target_length = {target}" if spec.kind == "decoder" else "")
        )
    return np.concatenate([before, text[:room], behind]).astype(np.int32)


def ended(text: np.ndarray, spec: TaskSpec) -> np.ndarray:
    """A target with its eos, cut to its length, int32 [n]."""
    return np.append(text, spec.vocab.eos)[: spec.config.target_length].astype(np.int32)


def blank(spec: TaskSpec) -> GenerationItem:
    """An item of no text."""
    if spec.kind == "encoder_decoder" and spec.config.target_length > spec.length:
        raise ConfigError(
            f"objective.target_length = {spec.config.target_length} must be at most "
            f"data.sequence_length = {spec.length}"
        )
    room = spec.length if spec.kind == "encoder_decoder" else spec.length - spec.config.target_length
    if room <= 2 + len(spec.prompt):
        raise ConfigError(
            f"data.sequence_length = {spec.length} leaves no room for a source beside "
            f"objective.target_length = {spec.config.target_length}"
        )
    return GenerationItem(np.array([spec.vocab.eos], np.int32), ())


def example(rng: np.random.Generator, item: GenerationItem, spec: TaskSpec) -> dict[str, np.ndarray]:
    """tokens, positions, segments, targets and weights, those of the decoder [target_length] where there are
    two towers, else all [length]."""
    count = len(item.targets)
    target = item.targets[int(rng.integers(count)) if count > 1 else 0] if count else np.zeros(0, np.int32)
    vocab = spec.vocab
    if spec.kind == "encoder_decoder":
        length, start = spec.config.target_length, 0
        pieces = [[vocab.bos], target[:-1]] if count else [target]
        arrays = token_arrays([item.source], spec, "encoder_") | token_arrays(
            pieces, spec, "decoder_", length
        )
    else:
        length, start = spec.length, max(len(item.source) - 1, 0)
        arrays = token_arrays([item.source, target[:-1]], spec)
    weights = np.zeros(length, np.float32)
    weights[start : start + len(target)] = 1.0
    return arrays | {
        "targets": pad_to_length(np.append(np.full(start, vocab.pad), target), length, vocab.pad),
        "weights": weights,
    }


class GenerationModule(TaskModule):
    """An encoder-decoder or a decoder, without a head of the task's own: still a language model."""

    def setup(self):
        self.lm = language_model(self.model)

    def predictions(
        self, batch: Batch, carry: None = None, keys: jax.Array | None = None
    ) -> tuple[tuple[jax.Array, Any], None]:
        """((hidden states [B, T, D] of what writes, the unembedding), None), as objectives have it."""
        return (hidden_states(self.lm, batch, keys), self.lm.unembedding()), None

    def logits(self, batch: Batch, carry: None = None) -> jax.Array:
        """float32 [B, T, V] without dropout; V the unpadded vocabulary."""
        (hidden, unembedding), _ = self.predictions(batch)
        return embed.logits(hidden, unembedding)[..., : unembedding.vocab_size]

    def __call__(self, batch: Batch, carry: None = None, keys: jax.Array | None = None) -> tuple[Terms, None]:
        """Terms "loss" and "token_accuracy", over the tokens that are asked for."""
        (hidden, unembedding), _ = self.predictions(batch, carry, keys)
        terms = cross_entropy(hidden, unembedding, batch["targets"], batch["weights"], self.loss)
        terms["token_accuracy"] = terms.pop("accuracy")
        return terms, None

    def evaluated(self, batch: Batch) -> tuple[Terms, dict[str, jax.Array]]:
        """(terms, nothing: answers are written)."""
        return self(batch)[0], {}


def asks(items: Sequence[GenerationItem], spec: TaskSpec) -> GenerationRequest:
    """The sources, each to be followed by a text."""
    config, rows = spec.config, [item.source.tolist() for item in items]
    prompts, sources = rows, None
    if spec.kind == "encoder_decoder":
        prompts, sources = [[spec.vocab.bos]] * len(rows), rows
    return GenerationRequest(prompts, sources, config.target_length, config.num_beams, config.length_penalty)
