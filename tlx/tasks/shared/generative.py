"""Parts of tasks whose predictions are generated texts: rows, the module, what to generate from.

    encoder_decoder    the encoder reads SOURCE eos (or what an imported tokenizer puts around it); the
                       decoder starts from bos and writes TARGET eos
    decoder            bos SOURCE sep TARGET eos

and in the form that the base model was trained with where that is another one (`spec.frame`).

Every token of the target, and eos, is to be predicted, and nothing else. A trained prompt (prompt tuning)
precedes the source. Sources lose their ends where they are too long, targets theirs and the eos. The
room for the source is what the longest target leaves, whatever the row's own target is: what is read while
texts are generated is what was read in training.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from typing_extensions import override

from tlx.base.errors import ConfigError
from tlx.base.term import Term, Terms
from tlx.nn import embed
from tlx.nn.losses import cross_entropy, soft_cross_entropy, top_log_probs, top_soft_cross_entropy
from tlx.objectives.shared.arrays import pad_to_length
from tlx.objectives.shared.base import full_unembedding
from tlx.tasks.shared.base import Batch, GenerationRequest, Languages, Task, TaskModule, TaskSpec
from tlx.tasks.shared.frames import tlx_frame
from tlx.tasks.shared.heads import hidden_states, language_model
from tlx.tasks.shared.inputs import token_arrays
from tlx.text.frames import Frame
from tlx.text.tokenizer import Tokenizer

KINDS = ("encoder_decoder", "decoder")


@dataclasses.dataclass(frozen=True)
class DecodingConfig:
    """Settings of the generation of texts."""

    target_length: int = 64
    """Most tokens of a text, eos included; at least 2."""
    num_beams: int = 0
    """Beams; 0 is greedy search."""
    length_penalty: float = 1.0
    """Exponent of the length by which the scores of beams are divided; larger favours longer texts."""

    def validate(self) -> None:
        """Raise ConfigError naming the field, its value and what is legal."""
        if self.target_length < 2:
            raise ConfigError(f"objective.target_length = {self.target_length} must be at least 2")
        if self.num_beams < 0:
            raise ConfigError(f"objective.num_beams = {self.num_beams} must be 0 (greedy) or more")


class GenerationItem(NamedTuple):
    """A source and its targets."""

    source: np.ndarray
    """int32 ids with the special ids around them."""
    targets: tuple[np.ndarray, ...]
    """int32 ids of each reference with eos, one of which is drawn each time the item comes by."""
    record: int = 0
    """Index of the record."""
    languages: Languages = (None, None)
    """Names of the source and of the targets, of their languages, control codes or modes."""


def text_frame(
    spec: TaskSpec, tokenizer: Tokenizer | None = None, languages: Languages = (None, None)
) -> Frame:
    """Return the form of sources and targets.

    Args:
        spec: What examples depend on.
        tokenizer: The run's tokenizer, for an imported one's own template.
        languages: Names of the source and of the target.

    Returns:
        The frame, in which no name is open; of a decoder, with what stands between source and target.
    """
    trained = spec.frame or tlx_frame(spec.kind, spec.vocab, tokenizer)
    frame = trained.named(*languages)
    if spec.kind == "decoder" and not frame.cue:
        frame = dataclasses.replace(frame, cue=(spec.vocab.sep,))
    return frame


def source_ids(
    text: np.ndarray, tokenizer: Tokenizer, spec: TaskSpec, languages: Languages = (None, None)
) -> np.ndarray:
    """Add the special ids around a source, and truncate it.

    Args:
        text: int32 ids of the source.
        tokenizer: The run's tokenizer.
        spec: What examples depend on.
        languages: Names of the source and of the target.

    Returns:
        int32 [n].

    Raises:
        ConfigError: The row has no room for a source.
    """
    target_length = spec.config.target_length
    frame = text_frame(spec, tokenizer, languages)
    if spec.kind == "encoder_decoder":
        before = [*spec.prompt, *frame.before]
        after = frame.after
        room = spec.length
    else:
        before = [*frame.start, *spec.prompt]
        after = frame.cue
        room = spec.length - target_length
    room -= len(before) + len(after)
    if room < 1:
        raise ConfigError(
            f"data.sequence_length = {spec.length} leaves no room for a source"
            + (f" beside objective.target_length = {target_length}" if spec.kind == "decoder" else "")
        )
    return np.concatenate([before, text[:room], after]).astype(np.int32)


def target_ids(text: np.ndarray, spec: TaskSpec, languages: Languages = (None, None)) -> np.ndarray:
    """Add what a target begins and ends with, and truncate it.

    Args:
        text: int32 ids of the target.
        spec: What examples depend on.
        languages: Names of the source and of the target.

    Returns:
        int32 [n].
    """
    frame = text_frame(spec, None, languages)
    end = frame.end or (spec.vocab.eos,)
    return np.concatenate([frame.begin, text, end])[: spec.config.target_length].astype(np.int32)


_LARGEST_EXPONENT = 700.0  # a float64 holds its exponential


class GenerationModule(TaskModule):
    """An encoder-decoder or a decoder, without a head of the task's own: still a language model."""

    can_distill = True
    has_head = False

    def setup(self) -> None:
        """Build the language model."""
        self.lm = language_model(self.model)

    def predictions(
        self, batch: Batch, carry: None = None, keys: jax.Array | None = None
    ) -> tuple[tuple[jax.Array, Any], None]:
        """Return what targets are predicted from, as objectives have it.

        Args:
            batch: Arrays as `GenerativeTask.example` makes them, with a batch dim.
            carry: None.
            keys: A PRNG key for each row; None draws nothing.

        Returns:
            (hidden states [B, T, D] of the decoder, the unembedding), and None.
        """
        return (hidden_states(self.lm, batch, keys), self.lm.unembedding()), None

    def logits(self, batch: Batch, carry: None = None) -> jax.Array:
        """Return float32 logits [B, T, V] without dropout; V is the unpadded vocabulary."""
        (hidden, unembedding), _ = self.predictions(batch)
        return embed.logits(hidden, unembedding)[..., : unembedding.vocab_size]

    @override
    def __call__(self, batch: Batch, carry: None = None, keys: jax.Array | None = None) -> tuple[Terms, None]:
        """Return the terms "loss" and "token_accuracy", over the tokens to predict."""
        return self.hard_terms(self.soft_inputs(batch, keys), batch), None

    @override
    def soft_inputs(self, batch: Batch, keys: jax.Array | None = None) -> Any:
        """Return the hidden states and the unembedding of `predictions`."""
        return self.predictions(batch, None, keys)[0]

    @override
    def hard_terms(self, inputs: Any, batch: Batch) -> Terms:
        """Return the terms "loss" and "token_accuracy"."""
        hidden, unembedding = inputs
        terms = cross_entropy(hidden, unembedding, batch["targets"], batch["weights"], self.loss)
        terms["token_accuracy"] = terms.pop("accuracy")
        return terms

    @override
    def soft_loss(self, student: Any, teacher: Any, batch: Batch, temperature: float) -> Term:
        """Return the divergence of the tokens to predict."""
        hidden, unembedding = student
        term = soft_cross_entropy(
            hidden,
            full_unembedding(unembedding),
            teacher[0],
            full_unembedding(teacher[1]),
            batch["weights"],
            temperature,
            self.loss,
        )
        return term._replace(loss_weight=temperature**2)

    @override
    def stored_loss(self, student: Any, batch: Batch, temperature: float) -> Term:
        """Return the divergence of the tokens to predict, over the ids that are stored and all others together."""
        hidden, unembedding = student
        term = top_soft_cross_entropy(
            hidden,
            full_unembedding(unembedding),
            batch["teacher_ids"],
            batch["teacher_log_probs"],
            batch["weights"],
            temperature,
            self.loss,
        )
        return term._replace(loss_weight=temperature**2)

    def top_log_probs(self, batch: Batch, count: int, temperature: float) -> tuple[jax.Array, jax.Array]:
        """Compute the largest log-probabilities at each position of the targets.

        Args:
            batch: Arrays of a batch.
            count: k.
            temperature: Temperature of the distribution.

        Returns:
            (ids, log-probabilities), int32 and float32 [B, T, k].
        """
        hidden, unembedding = self.soft_inputs(batch)
        return top_log_probs(hidden, full_unembedding(unembedding), count, temperature)

    @override
    def evaluated(self, batch: Batch) -> tuple[Terms, dict[str, jax.Array]]:
        """Return the terms and no outputs: predictions are generated."""
        return self(batch)[0], {}


class GenerativeTask(Task):
    """Base of tasks whose predictions are generated texts."""

    module = GenerationModule
    kinds = KINDS

    @override
    def frame(self, spec: TaskSpec) -> Frame:
        """Return the form of sources and targets, with the default names open."""
        trained = super().frame(spec)
        if spec.kind == "decoder" and not trained.cue:
            return dataclasses.replace(trained, cue=(spec.vocab.sep,))
        return trained

    @override
    def figures_of_terms(self, terms: Mapping[str, float]) -> dict[str, float]:
        """Return the perplexity of a token of the targets, given the tokens before it."""
        return {"perplexity": math.exp(min(terms["loss"], _LARGEST_EXPONENT))}

    @override
    def empty_item(self, spec: TaskSpec) -> GenerationItem:
        """Return an item of no text; raises ConfigError where the row has no room for a source."""
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

    @override
    def example(
        self, rng: np.random.Generator, item: GenerationItem, spec: TaskSpec
    ) -> dict[str, np.ndarray]:
        """Make a row of a source and one of its targets.

        item: The source and its targets.

        Returns:
            tokens, positions, segments, targets and weights [length]; for encoder-decoders the tokens of
            both, targets and weights [target_length].
        """
        vocab = spec.vocab
        num_targets = len(item.targets)
        target = np.zeros(0, np.int32)
        if num_targets:
            target = item.targets[int(rng.integers(num_targets)) if num_targets > 1 else 0]
        if spec.kind == "encoder_decoder":
            length = spec.config.target_length
            lead = 0
            start = list(text_frame(spec, None, item.languages).start)
            decoder = [start, target[:-1]] if num_targets else [target]
            arrays = token_arrays([item.source], spec, "encoder_")
            arrays |= token_arrays(decoder, spec, "decoder_", length)
        else:
            length = spec.length
            lead = max(len(item.source) - 1, 0)
            arrays = token_arrays([item.source, target[:-1]], spec)
        weights = np.zeros(length, np.float32)
        weights[lead : lead + len(target)] = 1.0
        targets = np.append(np.full(lead, vocab.pad), target)
        return arrays | {"targets": pad_to_length(targets, length, vocab.pad), "weights": weights}

    @override
    def generation_requests(
        self, items: Sequence[GenerationItem], spec: TaskSpec
    ) -> GenerationRequest | None:
        """Return the sources, each to be followed by a text."""
        config = spec.config
        prompts = [item.source.tolist() for item in items]
        sources = None
        if spec.kind == "encoder_decoder":
            sources = prompts
            prompts = [list(text_frame(spec, None, item.languages).prompt) for item in items]
        return GenerationRequest(
            prompts, sources, config.target_length, config.num_beams, config.length_penalty
        )
