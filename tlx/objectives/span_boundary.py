"""SpanBERT: spans of whole words are hidden, and predicted twice: from their positions and from their edges.

facebookresearch/SpanBERT pretraining/fairseq/data/masking.py (PairWithSpanMaskingScheme): of n ordinary
tokens ceil(n * masking_rate) are hidden. A span begins with the word of a random token and is as many words
long as a geometric distribution says that is cut off at `max_words` and renormalised (mean 3.797 for .2 and
10; the clipped min(G, 10) of other code has 4.463). It ends early at the end of the text or of the budget,
inside a word if need be; here also at special tokens and at the end of a document. Spans that meet are one.
Each is shown as mask (80%), as random tokens (10%, drawn for each) or as it is: one draw a span.

The span-boundary objective (models/pair_bert.py) predicts token i of a span from the hidden states of the
tokens just outside it and an embedding of i, for spans with a token of their document on both sides, up to
`max_targets` tokens of each. Loss: mean over hidden tokens + mean over these.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from typing_extensions import override

from tlx.base.errors import ConfigError
from tlx.base.term import Term, Terms
from tlx.data.window import Window, WindowSpec
from tlx.models.config import ModelConfig
from tlx.models.heads import MaskedHead
from tlx.models.transformer import Transformer
from tlx.nn.embed import Unembedding
from tlx.nn.feedforward import ACTIVATIONS
from tlx.nn.linear import Linear
from tlx.nn.losses import cross_entropy
from tlx.nn.norm import Norm
from tlx.objectives.mlm import with_special_tokens
from tlx.objectives.shared.arrays import pad_to_length, sparse_targets, with_targets
from tlx.objectives.shared.base import (
    Batch,
    Objective,
    ObjectiveModule,
    ObjectiveSpec,
    Predictions,
    at_positions,
    full_unembedding,
)
from tlx.objectives.shared.masking import check_shares
from tlx.parallel.sharding import logical
from tlx.text.frames import Frame


@dataclasses.dataclass(frozen=True)
class SpanBoundary:
    """Fraction of masked tokens, lengths of spans, and the number of positions that span edges predict."""

    name: str = "span_boundary"
    """Name in the table of objectives."""
    masking_rate: float = 0.15
    """Fraction of the ordinary tokens that are hidden, between 0 and 1."""
    geometric_p: float = 0.2
    """Parameter p of the geometric distribution of span lengths, between 0 and 1."""
    max_words: int = 10
    """Most words of a span."""
    mask_token_fraction: float = 0.8
    """Fraction of the spans that are shown as mask."""
    random_token_fraction: float = 0.1
    """Fraction of the spans that are shown as random ids."""
    max_targets: int = 15
    """Tokens of a span that its edges predict."""
    position_width: int = 200
    """Width of the embedding of a token's index in its span."""

    def validate(self) -> None:
        """Raise ConfigError for a share outside its range or a size below one."""
        for name in ("masking_rate", "geometric_p"):
            if not 0 < getattr(self, name) < 1:
                raise ConfigError(f"objective.{name} = {getattr(self, name)} must lie between 0 and 1")
        check_shares(self)
        for name in ("max_words", "max_targets", "position_width"):
            if getattr(self, name) < 1:
                raise ConfigError(f"objective.{name} = {getattr(self, name)} must be at least 1")


def budget(num_tokens: int, config: SpanBoundary) -> int:
    """Return the hidden tokens among `num_tokens` ordinary ones: 20 of 127."""
    return math.ceil(num_tokens * config.masking_rate)


def span_lengths(rng: np.random.Generator, count: int, config: SpanBoundary) -> np.ndarray:
    """Draw lengths of spans.

    Args:
        rng: Random generator of the row.
        count: How many.
        config: The distribution.

    Returns:
        Lengths in words, P(l) ~ p (1 - p)^(l - 1) for l in 1..max_words.
    """
    cumulative = _cumulative(config.geometric_p, config.max_words)
    return cumulative[:-1].searchsorted(cumulative[-1] * rng.random(count), "right") + 1


@functools.lru_cache(maxsize=16)
def _cumulative(p: float, max_words: int) -> np.ndarray:
    """Return the sums of (1 - p)^(l - 1) for lengths l up to each of 1..max_words."""
    return np.cumsum((1 - p) ** np.arange(max_words))


def draw_spans(
    rng: np.random.Generator, tokens: np.ndarray, segments: np.ndarray, spec: ObjectiveSpec
) -> tuple[np.ndarray, np.ndarray]:
    """Draw the spans to hide.

    Args:
        rng: Random generator of the row.
        tokens: int32 [T], cls, text, sep and padding.
        segments: int32 [T].
        spec: What examples depend on; without `starts_word` every token is a word.

    Returns:
        First positions of the spans, and the positions after their last ones: int64 [n] each, ascending, no span
        next to another.
    """
    config = spec.config
    length = len(tokens)
    special = (segments == 0) | spec.vocab.special[tokens]
    candidates = (~special).nonzero()[0]
    missing = budget(len(candidates), config)
    # No span reaches over a special token or the end of a document.
    is_wall = special.copy()
    is_wall[1:] |= segments[1:] != segments[:-1]
    is_begin = is_wall.copy()
    is_begin[1:] |= special[:-1]
    if spec.starts_word is not None:
        is_begin |= spec.starts_word[tokens]
    else:
        is_begin[:] = True
    walls = np.append(is_wall.nonzero()[0], length)
    words = np.append(is_begin.nonzero()[0], length)
    taken = bytearray(length)
    while missing:
        anchors = candidates[rng.integers(0, len(candidates), missing)]
        first_words = words.searchsorted(anchors, "right") - 1
        last_words = np.minimum(first_words + span_lengths(rng, missing, config), len(words) - 1)
        stops = np.minimum(words[last_words], walls[walls.searchsorted(anchors, "right")])
        # Python's bytes and lists are faster than numpy's scalars in this loop.
        spans = zip(anchors.tolist(), words[first_words].tolist(), stops.tolist(), strict=True)
        for anchor, first, stop in spans:
            if taken[anchor]:
                continue
            # The last span may be cut, where the budget ends.
            while (num_new := taken.count(0, first, stop)) > missing:
                stop -= 1
            taken[first:stop] = b"\x01" * (stop - first)
            missing -= num_new
            if not missing:
                break
    flags = np.frombuffer(b"\x00" + taken + b"\x00", np.int8)
    changes = flags[1:] - flags[:-1]
    return (changes > 0).nonzero()[0], (changes < 0).nonzero()[0]


class BoundaryHead(nn.Module):
    """Two layers (dense, activation, norm) on [left; right; position], then the token table and a bias."""

    model: ModelConfig
    config: SpanBoundary

    @nn.compact
    def __call__(
        self, left_BPD: jax.Array, right_BPD: jax.Array, offset_BP: jax.Array, unembedding: Unembedding
    ) -> Predictions:
        """Return what tokens of spans are predicted from, given the hidden states at their edges."""
        cfg = self.model
        block = cfg.block("encoder")
        width = unembedding.kernel.shape[1]
        dtype = jnp.dtype(cfg.param_dtype)
        init = logical(nn.initializers.normal(cfg.init.embedding_stddev), (None, None))
        shape = (self.config.max_targets, self.config.position_width)
        position_BPE = jnp.take(self.param("positions", init, shape, dtype), offset_BP, axis=0)
        hidden = jnp.concatenate([left_BPD, right_BPD, position_BPE.astype(left_BPD.dtype)], axis=-1)
        for number in (1, 2):
            fan_in = hidden.shape[-1]
            hidden = Linear(
                (fan_in,),
                (width,),
                ("embed", None),
                block.std(fan_in),
                True,
                block.dtype,
                cfg.param_dtype,
                name=f"dense_{number}",
            )(hidden)
            hidden = ACTIVATIONS[cfg.feedforward.activation](hidden)
            hidden = Norm(cfg.norm, width, cfg.param_dtype, name=f"norm_{number}")(hidden)
        zeros = logical(nn.initializers.zeros_init(), ("vocab",))
        bias = self.param("bias", zeros, unembedding.kernel.shape[:1], dtype)
        return Predictions(hidden, unembedding._replace(bias=bias))


class SpanBoundaryHeads(nn.Module):
    """The parameters "heads/mlm" and "heads/span_boundary"."""

    model: ModelConfig
    config: SpanBoundary

    def setup(self) -> None:
        """Build both heads."""
        self.mlm = MaskedHead(self.model)
        self.span_boundary = BoundaryHead(self.model, self.config)


class SpanBoundaryModule(ObjectiveModule):
    """An encoder with BERT's masked-token transform and the span-boundary head."""

    def setup(self) -> None:
        """Build the language model and the heads."""
        self.lm = Transformer(self.model, name="model")
        self.heads = SpanBoundaryHeads(self.model, self.config)

    @override
    def predictions(self, batch: Batch, carry: None, keys: jax.Array | None) -> tuple[Predictions, None]:
        """Return what the hidden tokens are predicted from.

        Returns:
            Transformed hidden states [B, P, D] at `target_positions` with the unembedding, and None.
        """
        return self._masked(batch, self.lm(batch, keys=keys)), None

    @override
    def __call__(self, batch: Batch, carry: None = None, keys: jax.Array | None = None) -> tuple[Terms, None]:
        """Return the terms of the hidden tokens, and "boundary_loss" and "boundary_accuracy"."""
        hidden_BTD = self.lm(batch, keys=keys)
        terms = cross_entropy(*self._masked(batch, hidden_BTD), batch["targets"], batch["weights"], self.loss)
        left_BPD = at_positions(hidden_BTD, batch["left"])
        right_BPD = at_positions(hidden_BTD, batch["right"])
        edges = self.heads.span_boundary(
            left_BPD, right_BPD, batch["offset"], full_unembedding(self.lm.unembedding())
        )
        for name, term in cross_entropy(*edges, batch["targets"], batch["edge_weights"], self.loss).items():
            terms[f"boundary_{name}"] = Term(*term)
        return terms, None

    def _masked(self, batch: Batch, hidden_BTD: jax.Array) -> Predictions:
        hidden_BPD = at_positions(hidden_BTD, batch["target_positions"])
        return Predictions(*self.heads.mlm(hidden_BPD, full_unembedding(self.lm.unembedding())))


class SpanBoundaryObjective(Objective):
    """SpanBERT's span masking and span-boundary objective."""

    config_class = SpanBoundary
    module = SpanBoundaryModule
    kinds = ("encoder",)

    @override
    def frame(self, spec: ObjectiveSpec) -> Frame:
        """Return cls before a text, sep after it; the second of two texts has no type of its own."""
        vocab = spec.vocab
        return Frame(before=(vocab.cls,), between=(vocab.sep,), after=(vocab.sep,))

    @override
    def clean_example(
        self, texts: Sequence[np.ndarray], spec: ObjectiveSpec, languages: Sequence[int] = (0, 0)
    ) -> dict[str, np.ndarray]:
        """Make a row in which nothing is hidden."""
        return with_targets(super().clean_example(texts, spec, languages))

    @override
    def window_spec(self, spec: ObjectiveSpec) -> WindowSpec:
        """Return packed windows that leave room for cls and sep; raises ConfigError if there is none."""
        if spec.length < 3:
            raise ConfigError(f"data.sequence_length = {spec.length} must be at least 3 for span_boundary")
        return WindowSpec(length=spec.length - 2)

    @override
    def example(self, rng: np.random.Generator, window: Window, spec: ObjectiveSpec) -> dict[str, np.ndarray]:
        """Make a row with hidden spans.

        window: Packed text, [length - 2].

        Returns:
            tokens, positions, segments [length]; target_positions (ascending), targets, weights, and the
            edges left, right, the index offset in the span and edge_weights [P].
        """
        config = spec.config
        vocab = spec.vocab
        tokens, segments, positions, *_ = with_special_tokens(window, spec)
        starts, stops = draw_spans(rng, tokens, segments, spec)
        sizes = stops - starts
        span_of = np.arange(len(sizes)).repeat(sizes)
        offset = np.arange(len(span_of)) - (sizes.cumsum() - sizes)[span_of]
        chosen = starts[span_of] + offset
        draw = rng.random(len(sizes))[span_of]
        random_ids = rng.integers(0, vocab.size, len(chosen), dtype=np.int32)
        replaced = np.where(
            draw < config.mask_token_fraction + config.random_token_fraction, random_ids, tokens[chosen]
        )
        shown = tokens.copy()
        shown[chosen] = np.where(draw < config.mask_token_fraction, vocab.mask, replaced)
        size = budget(spec.length - 2, config)
        return {
            "tokens": shown,
            "positions": positions,
            "segments": segments,
            **sparse_targets(tokens, chosen, size, vocab.pad),
            **_edges(starts, stops, span_of, offset, segments, size, config),
        }


def _edges(
    starts: np.ndarray,
    stops: np.ndarray,
    span_of: np.ndarray,
    offset: np.ndarray,
    segments: np.ndarray,
    size: int,
    config: SpanBoundary,
) -> dict[str, np.ndarray]:
    """Return left, right, offset and edge_weights [P] of the tokens of all spans.

    Args:
        starts: int [n], first position of each span.
        stops: int [n], the position after its last.
        span_of: int [m], the span of each token.
        offset: int [m], its index in the span.
        segments: int32 [T].
        size: P, at least m.
        config: How many tokens of a span have edges.

    Returns:
        int32 [P], and float32 [P] the weights; 0 where nothing is predicted.
    """
    # Edges are text of the span's own document: cls and sep are none.
    last = int(np.count_nonzero(segments)) - 1
    inside = (starts > 1) & (stops < last)
    inside &= segments[starts - 1] == segments[starts]
    inside &= segments[stops % len(segments)] == segments[starts]
    predicted = inside[span_of] & (offset < config.max_targets)
    arrays = {}
    for name, values in (("left", starts[span_of] - 1), ("right", stops[span_of]), ("offset", offset)):
        arrays[name] = pad_to_length(values * predicted, size)
    arrays["edge_weights"] = np.zeros(size, np.float32)
    arrays["edge_weights"][: len(predicted)] = predicted
    return arrays


OBJECTIVE = SpanBoundaryObjective()
