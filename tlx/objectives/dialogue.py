"""Dialogue in one decoder: a response from what was said before it, and what a response is rated (LaMDA).

Each turn of a conversation but the first is a response once an epoch; its context is up to `max_turns` turns
before it (Adiwardana et al. 2020, Meena: 7), without their beginning where they are too long. A row is

    bos turn sep turn RESPONSE response eos               every token of the response, and eos, is a target
    bos turn sep turn RESPONSE response ATTRIBUTE rating  the rating alone is a target

The second one, Thoppilan et al. 2022, section 5, makes a ranker of the generator: of a turn whose ratings
the data has (data.text.rating_columns, a 0 or 1 for each attribute) one is drawn each time it comes by. The
paper has words for RESPONSE, the attributes and the ratings; here they are marks of the vocabulary
(turns.py), and sep stands between turns, where ParlAI has spaces or a newline. `ratings` are then
probabilities, and `rank_responses` orders candidates as the paper does.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from typing_extensions import override

from tlx.base.errors import ConfigError
from tlx.base.term import Term, Terms
from tlx.data import turns
from tlx.data.window import Window, WindowSpec
from tlx.nn import embed
from tlx.nn.adaptive import AdaptiveUnembedding
from tlx.nn.embed import Unembedding
from tlx.nn.losses import cross_entropy, token_losses
from tlx.objectives.clm import CLMModule
from tlx.objectives.shared.arrays import leading_ones, pad_to_length, text_of
from tlx.objectives.shared.base import Batch, Objective, ObjectiveSpec
from tlx.text.frames import Frame


@dataclasses.dataclass(frozen=True)
class Dialogue:
    """Lengths of a response and of its context."""

    name: str = "dialogue"
    """Name in the table of objectives."""
    response_length: int = 0
    """Most tokens of a response, eos included; 0 is half of the row. What is longer is cut, without eos."""
    max_turns: int = 7
    """Most turns of the context, at least 1."""

    def validate(self) -> None:
        """Raise ConfigError for a negative length or no context."""
        if self.response_length < 0:
            raise ConfigError(f"objective.response_length = {self.response_length} must not be negative")
        if self.max_turns < 1:
            raise ConfigError(f"objective.max_turns = {self.max_turns} must be at least 1")


class Exchange(NamedTuple):
    """A response and its context."""

    context: np.ndarray
    """int32 ids of the turns before, with sep between them."""
    response: np.ndarray
    """int32 ids of the response, without what ends it."""
    whole: bool
    """Whether the response is there to its end."""
    rated: np.ndarray
    """int [r, 2], attributes with their ratings."""


def longest_response(spec: ObjectiveSpec) -> int:
    """Return the most tokens of a response, eos included."""
    return spec.config.response_length or spec.length // 2


def exchange(window: Window, spec: ObjectiveSpec) -> Exchange:
    """Return the last turns of the context, and the response, without what separates them."""
    vocab = spec.vocab
    assert window.second is not None
    context = text_of(window)
    turn = text_of(window.second)
    if len(context) and context[-1] in (vocab.sep, vocab.eos):
        context = context[:-1]
    separators = np.flatnonzero(context == vocab.sep)
    if len(separators) >= spec.config.max_turns:
        context = context[separators[-spec.config.max_turns] + 1 :]
    response, rated = turns.split_ratings(turn, vocab)
    ended = bool(len(response)) and response[-1] in (vocab.sep, vocab.eos)
    # Without an end the response is whole if the window had room for more.
    whole = ended or 0 < len(response) and len(turn) < len(window.second.tokens)
    return Exchange(context, response[:-1] if ended else response, whole, rated)


def rating_question(
    previous: Sequence[np.ndarray], response: np.ndarray, attribute: int, spec: ObjectiveSpec
) -> dict[str, np.ndarray]:
    """Make the row that asks how a response is rated.

    Args:
        previous: int32 ids of each turn before, without special tokens.
        response: int32 ids of the response, without special tokens.
        attribute: Index of the attribute to rate.
        spec: What examples depend on.

    Returns:
        Arrays as of `DialogueObjective.example`.
    """
    tokens, begins = turns.conversation([*previous, response], [None] * attribute + [1], spec.vocab)
    room = OBJECTIVE.window_spec(spec)
    start = int(begins[-1])
    context = _window_of(tokens[max(start - room.length, 0) : start])
    turn = _window_of(tokens[start:][: room.second_length])
    return OBJECTIVE.example(np.random.default_rng(0), context._replace(second=turn), spec)


def _window_of(tokens: np.ndarray) -> Window:
    return Window(tokens, np.ones(len(tokens), np.int32), np.arange(len(tokens), dtype=np.int32))


def rank_responses(ratings: Mapping[str, np.ndarray], safe: float = 0.9) -> np.ndarray:
    """Return the indices of candidates in LaMDA's order, best first.

    Candidates below `safe` on "safe" are left out, the others are sorted by 3 "sensible" + "specific" +
    "interesting". `ratings` has float [N] of each attribute; without "safe" all candidates stay.
    """
    scores = 3 * ratings["sensible"] + ratings["specific"] + ratings["interesting"]
    order = np.argsort(-scores, kind="stable")
    return order[ratings["safe"][order] >= safe] if "safe" in ratings else order


class DialogueModule(CLMModule):
    """A decoder; its ratings are what it says after an attribute's mark."""

    @override
    def __call__(self, batch: Batch, carry: None = None, keys: jax.Array | None = None) -> tuple[Terms, None]:
        """Return a causal model's terms, and "response_loss", "rating_loss" and "rating_accuracy"."""
        hidden, terms = self.hidden(batch, keys)
        unembedding = self.lm.unembedding()
        terms |= cross_entropy(hidden, unembedding, batch["targets"], batch["weights"], self.loss)
        asked = (batch["rating_place"] > 0).astype(jnp.float32)
        hidden_B1D = self._at_rating(hidden, batch)
        target_B1 = jnp.take_along_axis(batch["targets"], batch["rating_place"][:, None], axis=1)
        losses_B1, *_ = token_losses(hidden_B1D, unembedding, target_B1, self.loss.label_smoothing)
        loss = jnp.sum(losses_B1[:, 0] * asked)
        count = jnp.sum(asked)
        total = terms["loss"]
        margin_B = self._margin(hidden_B1D, unembedding, batch)
        right = (margin_B > 0) == (target_B1[:, 0] == batch["rating_marks"][:, 1])
        # Ratings are among the targets: what is left of the loss is the responses'.
        terms["response_loss"] = Term(total.sum - loss, total.weight - count)
        terms["rating_loss"] = Term(loss, count)
        terms["rating_accuracy"] = Term(jnp.sum(right * asked), count)
        return terms, None

    def ratings(self, batch: Batch) -> jax.Array:
        """Return float32 [B], of the ratings 0 and 1 that each row asks for the probability of 1."""
        (hidden, unembedding), _ = self.predictions(batch, None, None)
        hidden_B1D = self._at_rating(hidden, batch)
        return jax.nn.sigmoid(self._margin(hidden_B1D, unembedding, batch))

    def _at_rating(self, hidden_BTD: jax.Array, batch: Batch) -> jax.Array:
        return jnp.take_along_axis(hidden_BTD, batch["rating_place"][:, None, None], axis=1)

    def _margin(
        self, hidden_B1D: jax.Array, unembedding: Unembedding | AdaptiveUnembedding, batch: Batch
    ) -> jax.Array:
        """Return float32 [B], by how much the logit of rating 1 exceeds that of 0."""
        logits_BV = embed.logits(hidden_B1D, unembedding)[:, 0]
        pair_B2 = jnp.take_along_axis(logits_BV, batch["rating_marks"], axis=1)
        return pair_B2[:, 1] - pair_B2[:, 0]


class DialogueObjective(Objective):
    """Dialogue in a decoder, with LaMDA's ratings."""

    config_class = Dialogue
    module = DialogueModule
    kinds = ("decoder",)

    @override
    def frame(self, spec: ObjectiveSpec) -> Frame:
        """Return bos before what was said, a mark before the response, eos after it."""
        vocab = spec.vocab
        return Frame(
            before=(vocab.bos,),
            start=(vocab.bos,),
            cue=(vocab.mark(turns.RESPONSE),),
            end=(vocab.eos,),
            place=-1,
        )

    @override
    def window_spec(self, spec: ObjectiveSpec) -> WindowSpec:
        """Return turns of conversations; raises ConfigError where a response or its mark has no room."""
        longest = longest_response(spec)
        if not 2 <= longest <= spec.length - 3:
            raise ConfigError(
                f"objective.response_length = {longest} must be 2 to data.sequence_length - 3 = "
                f"{spec.length - 3}"
            )
        if not spec.vocab.num_sentinels:
            raise ConfigError(
                "dialogue puts a mark before a response; the vocabulary has none (num_sentinels = 0)"
            )
        return WindowSpec(spec.length - 2, "turns", second_length=longest)

    @override
    def example(self, rng: np.random.Generator, window: Window, spec: ObjectiveSpec) -> dict[str, np.ndarray]:
        """Make a row of a context and a response, or its rating.

        window: The context, and as a second text the response with its ratings.

        Returns:
            tokens, positions, segments, targets, weights [length]; rating_place [], 0 where no rating is
            asked for, and rating_marks [2], the ids of the ratings 0 and 1.
        """
        vocab = spec.vocab
        length = spec.length
        longest = longest_response(spec)
        context, response, whole, rated = exchange(window, spec)
        if len(rated):
            attribute, rating = rated[rng.integers(len(rated))].tolist()
            marks = [vocab.mark(turns.ATTRIBUTE + attribute), vocab.mark(turns.RATING + rating)]
            answer = np.append(response[: longest - 1], marks)
            num_targets = 1
        else:
            answer = np.append(response, vocab.eos) if whole else response[:longest]
            num_targets = len(answer)
        count = min(len(context) + 1 + len(answer), length) if len(response) else 0
        text = np.zeros(1, np.int32)
        if count:
            context = context[max(len(context) + 1 + len(answer) - length, 0) :]
            text = np.concatenate([[vocab.bos], context, [vocab.mark(turns.RESPONSE)], answer])
        indices = np.arange(length)
        targeted = (indices >= count - num_targets) & (indices < count)
        return {
            "tokens": pad_to_length(text[:-1], length, vocab.pad),
            "positions": np.where(indices < count, indices, 0).astype(np.int32),
            "segments": leading_ones(count, length),
            "targets": np.where(targeted, pad_to_length(text[1:], length, vocab.pad), vocab.pad).astype(
                np.int32
            ),
            "weights": targeted.astype(np.float32),
            "rating_place": np.array(count - 1 if len(rated) and count else 0, np.int32),
            "rating_marks": np.array([vocab.mark(turns.RATING + i) for i in (0, 1)], np.int32),
        }


OBJECTIVE = DialogueObjective()
