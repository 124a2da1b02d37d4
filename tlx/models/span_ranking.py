"""The head of coreference: spans of a document are scored, pruned, and each is given the best antecedent.

Lee et al. 2017 and 2018 (coarse to fine), with the hidden states of windows that are encoded one by one (Joshi et al.
2019, "independent"; SpanBERT, Joshi et al. 2020), as in their code (mandarjoshi90/coref, independent.py):

    g      a span: its first and last hidden state, a vector of its width, and a mean of its states by attention
    s_m    score of a span: a network of g, and one of its width alone
    pruned to the best `span_fraction` per token of which no two cross
    fast   s_m(i) + s_m(j) + (W g_i) . g_j + a score of the distance in spans; the best `max_antecedents` j < i
    slow   fast + a network of g_i, g_j, g_i * g_j, and vectors of speakers, genre, distance and windows apart
    again  g_i moves by a gate to the mean of its antecedents under the softmax of slow, `depth` times in all

Where the mentions of a document are given (Document.mention_starts_BU), these are ranked and nothing is pruned.
No antecedent has the score 0. Vectors are drawn as TensorFlow draws variables by default (Glorot), kernels with a
standard deviation of .02.

Shapes: Q positions of all windows of a document, W widths of a span, U spans that are kept, A antecedents of each,
Y size of a span's vector, J size of a feature's vector.
"""

import dataclasses
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from tlx.base.errors import ConfigError
from tlx.models.config import ModelConfig
from tlx.nn.dropout import dropout, fold
from tlx.nn.linear import Linear
from tlx.nn.span_selection import non_crossing
from tlx.parallel.sharding import logical

# Branch of a row's key, outside those of the layers and of other heads.
_BRANCH = 2**24
_STD = 0.02
_NUM_DISTANCES = 10


@dataclasses.dataclass(frozen=True)
class SpanRankingConfig:
    """Sizes of the head; the defaults are those of SpanBERT's code."""

    max_span_width: int = 30
    """Most tokens of a span, at least 1."""
    span_fraction: float = 0.4
    """Spans that are kept, per token of a document, special ids included; above 0."""
    max_spans: int = 3900
    """Most spans that are kept, at least 1."""
    max_antecedents: int = 50
    """Most antecedents of a span of which the slow score is computed, at least 1."""
    depth: int = 2
    """How often antecedents are scored, each time with spans that have seen their antecedents; at least 1."""
    hidden_layers: int = 1
    """Hidden layers of each network, at least 1."""
    hidden_width: int = 3000
    """Width of these layers, at least 1."""
    feature_width: int = 20
    """Size of the vectors of widths, distances, speakers and genres, at least 1."""
    window_distances: int = 3
    """Number of vectors for windows apart: 0, 1 ... and that number less 1 or more; 0: no such vectors."""
    dropout: float = 0.3
    """Dropout of the head, in 0..1; that of the model is model.dropout."""

    def check(self) -> None:
        """Raise ConfigError naming the field, its value and what is legal."""
        least = dict.fromkeys(
            (
                "max_span_width",
                "max_spans",
                "max_antecedents",
                "depth",
                "hidden_layers",
                "hidden_width",
                "feature_width",
            ),
            1,
        )
        for name, low in {**least, "window_distances": 0}.items():
            if getattr(self, name) < low:
                raise ConfigError(f"objective.ranking.{name} = {getattr(self, name)} must be at least {low}")
        if not self.span_fraction > 0:
            raise ConfigError(f"objective.ranking.span_fraction = {self.span_fraction} must be above 0")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"objective.ranking.dropout = {self.dropout} must lie in 0..1, below 1")

    def most_spans(self, length: int) -> int:
        """Return the most spans that are ranked in a document of `length` positions."""
        return max(1, min(self.max_spans, int(self.span_fraction * length)))


class Document(NamedTuple):
    """Inputs of the head for each document, besides hidden states."""

    sentences_BQ: jax.Array
    """int32, number of the sentence of each position from 1; 0 where there is no text."""
    speakers_BQ: jax.Array
    """int32, number of the speaker of each position."""
    windows_BQ: jax.Array
    """int32, number of the window of each position."""
    genre_B: jax.Array
    """int32, number of the genre."""
    num_tokens_B: jax.Array
    """int32, tokens of all windows, special ids included."""
    mention_starts_BU: jax.Array | None = None
    """int32, first position of each span that is ranked, ascending by first and last position, -1 at the end where
    there are fewer; None: all spans are scored, and the best are ranked."""
    mention_widths_BU: jax.Array | None = None
    """int32, number of their positions less 1."""


class Ranking(NamedTuple):
    """Spans of documents in the order of their beginnings and ends, with scored antecedents."""

    starts_BU: jax.Array
    """int32, first position."""
    widths_BU: jax.Array
    """int32, number of positions less 1."""
    kept_BU: jax.Array
    """bool; False for what fills up the array."""
    antecedents_BUA: jax.Array
    """int32, indices of spans."""
    scores_BUA: jax.Array
    """float32; -inf where there is no such antecedent. That there is none has the score 0."""


class Network(nn.Module):
    """Hidden layers with ReLU and dropout, and one output."""

    cfg: ModelConfig
    """The model, for the dtype of parameters."""
    inputs: int
    """Size of the input."""
    shape: SpanRankingConfig
    """Number and width of the hidden layers."""
    site: int
    """Number of the dropout of the first hidden layer; the others follow."""

    @nn.compact
    def __call__(self, x: jax.Array, keys_B: jax.Array | None = None) -> jax.Array:
        """Return float32 [...] of x[..., inputs]; keys_B is a key for each row of x, None: no dropout."""
        width = self.inputs
        for layer in range(self.shape.hidden_layers):
            hidden = _linear(self.cfg, width, self.shape.hidden_width, f"hidden_{layer}")(x)
            x = dropout(nn.relu(hidden), self.shape.dropout, keys_B, self.site + layer)
            width = self.shape.hidden_width
        return _linear(self.cfg, width, 1, "output")(x)[..., 0]


class SpanRanking(nn.Module):
    """The head; see the module's docstring."""

    cfg: ModelConfig
    """The model."""
    shape: SpanRankingConfig
    """Sizes of the head."""
    num_genres: int = 0
    """Number of genres; 0: no vectors of genres."""
    has_speakers: bool = True
    """Whether there is a vector for the same speaker and one for another."""

    def setup(self) -> None:
        """Create parameters and submodules."""
        shape = self.shape
        size = shape.feature_width
        vector_size = 3 * self.cfg.width + size
        self.word_attention = _linear(self.cfg, self.cfg.width, 1, "word_attention")
        self.widths = self._table("widths", shape.max_span_width)
        self.prior_widths = self._table("prior_widths", shape.max_span_width)
        self.prior_distances = self._table("prior_distances", _NUM_DISTANCES)
        self.distances = self._table("distances", _NUM_DISTANCES)
        features = 1
        if self.has_speakers:
            self.speakers = self._table("speakers", 2)
            features += 1
        if self.num_genres:
            self.genres = self._table("genres", self.num_genres)
            features += 1
        if shape.window_distances:
            self.window_distances = self._table("window_distances", shape.window_distances)
            features += 1
        self.mention = Network(self.cfg, vector_size, shape, 100, name="mention")
        self.width_prior = Network(self.cfg, size, shape, 200, name="width_prior")
        self.distance_prior = _linear(self.cfg, size, 1, "distance_prior")
        self.source = _linear(self.cfg, vector_size, vector_size, "source")
        self.pair = Network(self.cfg, 3 * vector_size + features * size, shape, 300, name="pair")
        self.gate = _linear(self.cfg, 2 * vector_size, vector_size, "gate")

    def __call__(self, hidden_BQD: jax.Array, document: Document, keys_B: jax.Array | None = None) -> Ranking:
        """Rank the antecedents of the best spans.

        Args:
            hidden_BQD: Hidden states of all windows of each document, one window after the other.
            document: What else is known of each position.
            keys_B: A PRNG key for each document; None: no dropout.

        Returns:
            The spans that are kept, and the scores of their antecedents.
        """
        keys_B = fold(keys_B, _BRANCH)
        hidden_BQD = hidden_BQD.astype(jnp.float32)
        if document.mention_starts_BU is None or document.mention_widths_BU is None:
            starts_BU, widths_BU, kept_BU, vectors_BUY, scores_BU = self._best_spans(
                hidden_BQD, document, keys_B
            )
        else:
            kept_BU = document.mention_starts_BU >= 0
            starts_BU = jnp.where(kept_BU, document.mention_starts_BU, 0)
            widths_BU = jnp.where(kept_BU, document.mention_widths_BU, 0)
            vectors_BUY, scores_BU = self._of_spans(hidden_BQD, starts_BU, widths_BU, keys_B)
        antecedents_BUA, fast_BUA = self._coarse(vectors_BUY, scores_BU, kept_BU, keys_B)
        features_BUAJ = self._pair_features(starts_BU, antecedents_BUA, document)
        scores_BUA = fast_BUA
        for step in range(self.shape.depth):
            slow_BUA = self._slow_scores(vectors_BUY, antecedents_BUA, features_BUAJ, fold(keys_B, step))
            scores_BUA = fast_BUA + slow_BUA
            if step + 1 < self.shape.depth:
                vectors_BUY = self._with_antecedents(vectors_BUY, antecedents_BUA, scores_BUA)
        return Ranking(starts_BU, widths_BU, kept_BU, antecedents_BUA, scores_BUA)

    def _table(self, name: str, rows: int) -> jax.Array:
        init = logical(nn.initializers.glorot_uniform(), (None, None))
        dtype = jnp.dtype(self.cfg.param_dtype)
        return self.param(name, init, (rows, self.shape.feature_width), dtype).astype(jnp.float32)

    def _best_spans(
        self, hidden_BQD: jax.Array, document: Document, keys_B: jax.Array | None
    ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]:
        """Score all spans.

        Returns:
            First positions, widths, whether they are spans, vectors and scores of the best, [B, U] or [B, U, Y].
        """
        vectors_BQWY = self._span_vectors(hidden_BQD, keys_B)
        scores_BQW = self.mention(vectors_BQWY, keys_B) + self._width_scores(keys_B, len(hidden_BQD))[:, None]
        starts_BU, widths_BU, kept_BU = self._prune(scores_BQW, document)
        index_BU = starts_BU * self.shape.max_span_width + widths_BU
        batch, _, _, size = vectors_BQWY.shape
        vectors_BUY = _take(vectors_BQWY.reshape(batch, -1, size), index_BU)
        return starts_BU, widths_BU, kept_BU, vectors_BUY, _take(scores_BQW.reshape(batch, -1), index_BU)

    def _of_spans(
        self, hidden_BQD: jax.Array, starts_BU: jax.Array, widths_BU: jax.Array, keys_B: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        """Return the vectors [B, U, Y] and scores [B, U] of given spans, as `_span_vectors` has them of all."""
        offsets = jnp.arange(self.shape.max_span_width)
        positions_BUW = jnp.minimum(starts_BU[..., None] + offsets, hidden_BQD.shape[1] - 1)
        states_BUWD = _take(hidden_BQD, positions_BUW)
        inside_BUW = offsets <= widths_BU[..., None]
        logits_BUW = jnp.where(inside_BUW, self.word_attention(states_BUWD)[..., 0], -jnp.inf)
        mean_BUD = jnp.einsum("buw,buwd->bud", jax.nn.softmax(logits_BUW, axis=-1), states_BUWD)
        width_BUJ = dropout(self.widths[widths_BU], self.shape.dropout, keys_B, 0)
        first_BUD = states_BUWD[:, :, 0]
        last_BUD = _take(hidden_BQD, starts_BU + widths_BU)
        vectors_BUY = jnp.concatenate([first_BUD, last_BUD, width_BUJ, mean_BUD], axis=-1)
        width_scores_BW = self._width_scores(keys_B, len(hidden_BQD))
        return vectors_BUY, self.mention(vectors_BUY, keys_B) + _take(width_scores_BW, widths_BU)

    def _span_vectors(self, hidden_BQD: jax.Array, keys_B: jax.Array | None) -> jax.Array:
        """Return the vector of every span, [B, Q, W, Y]: first state, last state, width, mean by attention."""
        batch, length, width = hidden_BQD.shape
        widths = self.shape.max_span_width
        attention_BQ = self.word_attention(hidden_BQD)[..., 0]
        # The state `w` positions later; past the end, where no span is allowed, the last.
        later = jnp.minimum(jnp.arange(length)[:, None] + jnp.arange(widths), length - 1)
        last_BQWD = hidden_BQD[:, later]
        # Over the positions up to the width of the span.
        inside = jnp.arange(widths)[None, :] <= jnp.arange(widths)[:, None]
        logits = jnp.where(inside, attention_BQ[:, later][:, :, None, :], -jnp.inf)
        mean_BQWD = jnp.einsum("bqwj,bqjd->bqwd", jax.nn.softmax(logits, axis=-1), last_BQWD)
        first_BQWD = jnp.broadcast_to(hidden_BQD[:, :, None], last_BQWD.shape)
        shape = (batch, length, widths, self.shape.feature_width)
        width_BQWJ = dropout(jnp.broadcast_to(self.widths, shape), self.shape.dropout, keys_B, 0)
        return jnp.concatenate([first_BQWD, last_BQWD, width_BQWJ, mean_BQWD], axis=-1)

    def _width_scores(self, keys_B: jax.Array | None, batch: int) -> jax.Array:
        """Return the scores of widths alone, [B, W]."""
        return self.width_prior(
            jnp.broadcast_to(self.prior_widths, (batch, *self.prior_widths.shape)), keys_B
        )

    def _prune(self, scores_BQW: jax.Array, document: Document) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Return first positions, widths and whether they are spans, [B, U] each, of the best spans."""
        _, length, widths = scores_BQW.shape
        shape = self.shape
        sentences_BQ = document.sentences_BQ
        most = shape.most_spans(length)
        ends = jnp.arange(length)[:, None] + jnp.arange(widths)
        last_BQW = jnp.take(sentences_BQ, jnp.minimum(ends, length - 1), axis=1)
        first_BQ1 = sentences_BQ[:, :, None]
        allowed_BQW = (first_BQ1 > 0) & (last_BQW == first_BQ1) & (ends < length)
        # The choice of spans has no gradient.
        priority_BQW = jax.vmap(non_crossing)(jax.lax.stop_gradient(scores_BQW), allowed_BQW)
        limit_B = jnp.floor(document.num_tokens_B.astype(jnp.float32) * shape.span_fraction)
        limit_B = jnp.minimum(limit_B.astype(jnp.int32), most)
        priority_BU, index_BU = jax.lax.top_k(priority_BQW.reshape(len(priority_BQW), -1), most)
        kept_BU = (priority_BU > 0) & (jnp.arange(most) < limit_B[:, None])
        # In the order of the text: by first position and then by last, and what is none at the end.
        index_BU = jnp.sort(jnp.where(kept_BU, index_BU, length * widths), axis=1)
        kept_BU = index_BU < length * widths
        index_BU = jnp.where(kept_BU, index_BU, 0)
        return index_BU // widths, index_BU % widths, kept_BU

    def _coarse(
        self, vectors_BUY: jax.Array, scores_BU: jax.Array, kept_BU: jax.Array, keys_B: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        """Return the best antecedents of each span by their fast scores, and these, [B, U, A] each."""
        rate = self.shape.dropout
        count = vectors_BUY.shape[1]
        source_BUY = dropout(self.source(vectors_BUY), rate, keys_B, 1)
        target_BUY = dropout(vectors_BUY, rate, keys_B, 2)
        fast = jnp.einsum("buy,bvy->buv", source_BUY, target_BUY)
        fast = fast + scores_BU[:, :, None] + scores_BU[:, None, :]
        offsets = jnp.arange(count)[:, None] - jnp.arange(count)[None, :]
        table = jnp.broadcast_to(self.prior_distances, (len(fast), *self.prior_distances.shape))
        distance_scores = self.distance_prior(dropout(table, rate, keys_B, 3))[..., 0]
        fast = fast + distance_scores[:, bucket_of_distance(offsets)]
        is_before = (offsets > 0) & kept_BU[:, :, None] & kept_BU[:, None, :]
        fast = jnp.where(is_before, fast, -jnp.inf)
        most = min(self.shape.max_antecedents, count)
        # The choice has no gradient, the scores have one.
        _, antecedents_BUA = jax.lax.top_k(jax.lax.stop_gradient(fast), most)
        return antecedents_BUA, jnp.take_along_axis(fast, antecedents_BUA, axis=2)

    def _pair_features(
        self, starts_BU: jax.Array, antecedents_BUA: jax.Array, document: Document
    ) -> jax.Array:
        """Return the features of each span with each antecedent, [B, U, A, features * J]."""
        shape = (*antecedents_BUA.shape, self.shape.feature_width)
        features = []
        if self.has_speakers:
            speakers_BU = _take(document.speakers_BQ, starts_BU)
            is_same = speakers_BU[:, :, None] == _take(speakers_BU, antecedents_BUA)
            features.append(self.speakers[is_same.astype(jnp.int32)])
        if self.num_genres:
            features.append(jnp.broadcast_to(self.genres[document.genre_B][:, None, None], shape))
        offsets_BUA = jnp.arange(antecedents_BUA.shape[1])[:, None] - antecedents_BUA
        features.append(self.distances[bucket_of_distance(offsets_BUA)])
        if self.shape.window_distances:
            windows_BU = _take(document.windows_BQ, starts_BU)
            apart_BUA = windows_BU[:, :, None] - _take(windows_BU, antecedents_BUA)
            features.append(self.window_distances[jnp.clip(apart_BUA, 0, self.shape.window_distances - 1)])
        return jnp.concatenate(features, axis=-1)

    def _slow_scores(
        self,
        vectors_BUY: jax.Array,
        antecedents_BUA: jax.Array,
        features_BUAJ: jax.Array,
        keys_B: jax.Array | None,
    ) -> jax.Array:
        """Return the scores of pairs, [B, U, A]."""
        antecedent_BUAY = _take(vectors_BUY, antecedents_BUA)
        span_BUAY = jnp.broadcast_to(vectors_BUY[:, :, None], antecedent_BUAY.shape)
        features_BUAJ = dropout(features_BUAJ, self.shape.dropout, keys_B, 4)
        pair = [span_BUAY, antecedent_BUAY, antecedent_BUAY * span_BUAY, features_BUAJ]
        return self.pair(jnp.concatenate(pair, axis=-1), keys_B)

    def _with_antecedents(
        self, vectors_BUY: jax.Array, antecedents_BUA: jax.Array, scores_BUA: jax.Array
    ) -> jax.Array:
        """Move each span to the mean of itself and its antecedents under the softmax, by a gate; [B, U, Y]."""
        weights = jax.nn.softmax(with_none(scores_BUA), axis=-1)
        antecedent_BUAY = _take(vectors_BUY, antecedents_BUA)
        mean_BUY = weights[..., :1] * vectors_BUY
        mean_BUY = mean_BUY + jnp.einsum("bua,buay->buy", weights[..., 1:], antecedent_BUAY)
        gate_BUY = jax.nn.sigmoid(self.gate(jnp.concatenate([vectors_BUY, mean_BUY], axis=-1)))
        return gate_BUY * mean_BUY + (1 - gate_BUY) * vectors_BUY


def with_none(scores_BUA: jax.Array) -> jax.Array:
    """Return the scores with that of no antecedent, 0, in front: [B, U, 1 + A]."""
    return jnp.pad(scores_BUA, ((0, 0), (0, 0), (1, 0)))


def bucket_of_distance(distances: jax.Array) -> jax.Array:
    """Return the buckets 0, 1, 2, 3, 4, 5-7, 8-15, 16-31, 32-63 and 64 or more, as 0 to 9; below 0 is 0."""
    logarithm = jnp.floor(jnp.log2(jnp.maximum(distances, 1).astype(jnp.float32))).astype(jnp.int32) + 3
    return jnp.clip(jnp.where(distances <= 4, distances, logarithm), 0, _NUM_DISTANCES - 1)


def _linear(cfg: ModelConfig, inputs: int, outputs: int, name: str) -> Linear:
    """A dense layer in float32; the size of a span's vector divides over no mesh."""
    return Linear(
        inputs=(inputs,),
        outputs=(outputs,),
        names=(None, None),
        std=_STD,
        bias=True,
        dtype="float32",
        param_dtype=cfg.param_dtype,
        name=name,
    )


def _take(values: jax.Array, indices: jax.Array) -> jax.Array:
    """Gather values[b, indices[b, ...]] for each row b."""
    return jax.vmap(lambda row, chosen: row[chosen])(values, indices)
