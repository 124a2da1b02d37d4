"""XLNet's permutation language modelling: tokens predicted in a random order, with memory of the text before.

A row is a window of a stream: `reuse_len` tokens, whose hidden states become memory for the row's next
window, and the rest. Each of the two parts has its own factorisation order; the first part sees nothing
of the second, the second sees all of the first, both see all of the memory. Who sees whom is said by two
integers per token, from which the model builds its masks:

    i sees j  iff  query_rank[i] > rank[j]      (in the content stream also iff i == j)

as zihangdai/xlnet data_utils.py (_local_perm) does it: tokens that are no target have rank -1 (all see
them) and query rank 0 (they see each other only); targets have their index in the order as both. The
second part's numbers are raised above all of the first part's. perm_size is the part, as in every
published command. Documents follow one another in the stream and see each other, told apart by eos, as
there.

Targets (`_sample_mask`): n-grams with n in 1..5, P(n) ~ 1/n, one in each context of n * alpha / beta
tokens, put at random in it and moved on to the next start of a word; single random tokens fill up to
the goal. The official code tests seg[beg] where seg[end] was meant, so that n counts tokens and not
words: followed here, for all published models were trained so. The paper's plain choice, the tail of the
order, is `targets="cut"`: there every token has its index in the order, and sees only what comes before.

`pairs=True` makes the second part A sep B sep cls (plm_pairs.py), with the types that a model with
position.segment_relative reads, as the published models were trained: sep and cls have an index in the
order, see themselves, and are never targets.

`bi_data=True`: half of the rows of a batch read the text backwards, with `backwards` = 1, which turns the
sign of all distances in the model (its relative_positional_encoding): the same model reads both ways. Their
targets are drawn on the text as it was, so that n-grams begin with words.
"""

import bisect
import dataclasses
from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import numpy as np
from typing_extensions import override

from tlx.base.errors import ConfigError
from tlx.data.window import Window, WindowSpec, window_of_texts
from tlx.models.two_stream import Memory, TwoStream, empty_memory
from tlx.objectives.shared.arrays import leading_ones, sparse_targets
from tlx.objectives.shared.base import Batch, Objective, ObjectiveModule, ObjectiveSpec, Predictions
from tlx.objectives.shared.plm_pairs import NUM_FUNCTIONAL, second_part, segments_row
from tlx.text.frames import Frame

MAX_NGRAM = 5
# Sums of the unnormalised 1/n.
_SUMS = np.cumsum(1 / np.arange(1, MAX_NGRAM + 1))
_BOUNDS = _SUMS[:-1]
_TOTAL = float(_SUMS[-1])


@dataclasses.dataclass(frozen=True)
class PLM:
    """Which tokens are targets, how many, and how much of a window becomes memory."""

    name: str = "plm"
    """Name in the table of objectives."""
    targets: Literal["ngram", "cut"] = "ngram"
    """Which tokens are targets: n-grams, or the tail of the order ("cut")."""
    pairs: bool = False
    """Whether a row ends with two texts, A sep B sep cls."""
    pair_ends: Literal["sentence", "part"] = "sentence"
    """Where two texts of a row begin and end: with sentences, of which the longer text then loses what is too much
    from its end (the official code), or where the part is full ("part"); see plm_pairs.py."""
    bi_data: bool = False
    """Whether half of the rows read backwards; every source then needs an even number of rows."""
    num_predict: int | None = None
    """Targets of a row, the first part has the odd one; None is a sixth of the length (85 of 512)."""
    mask_alpha: int = 6
    """An n-gram is drawn about every n * mask_alpha / mask_beta tokens."""
    mask_beta: int = 1
    """See mask_alpha; 1 to mask_alpha."""
    reuse_len: int | None = None
    """Tokens of the first part, which becomes memory; None is half of the length."""
    mem_len: int = 384
    """Tokens of memory in every layer; 0 has no memory."""

    def validate(self) -> None:
        """Raise ConfigError for values that fit no length; `window_spec` checks those of a length."""
        if not 1 <= self.mask_beta <= self.mask_alpha:
            raise ConfigError(
                f"objective.mask_beta = {self.mask_beta} must lie in "
                f"1..objective.mask_alpha = {self.mask_alpha}"
            )
        if self.mem_len < 0:
            raise ConfigError(f"objective.mem_len = {self.mem_len} must not be negative")


def parts(length: int, config: PLM) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return ((tokens, targets) of the reused part, (tokens, targets) of the rest)."""
    reuse_len = length // 2 if config.reuse_len is None else config.reuse_len
    num_predict = length // 6 if config.num_predict is None else config.num_predict
    return (reuse_len, num_predict - num_predict // 2), (length - reuse_len, num_predict // 2)


class _Row(NamedTuple):
    """A row before its order is drawn, [length] each."""

    tokens: np.ndarray
    real: np.ndarray  # no padding
    functional: np.ndarray | None  # sep or cls of a pair
    types: np.ndarray | None  # of pairs


def _plain_row(window: Window) -> _Row:
    return _Row(window.tokens, window.segments > 0, None, None)


def _pair_row(rng: np.random.Generator, window: Window, spec: ObjectiveSpec) -> _Row:
    assert window.second is not None
    (reuse_len, _), (rest_len, _) = parts(spec.length, spec.config)
    real = window.segments > 0
    text = window.tokens[reuse_len:][real[reuse_len:]]
    second = second_part(rng, text, window.second, rest_len, spec)
    tokens = np.empty(spec.length, np.int32)
    tokens[:reuse_len] = window.tokens[:reuse_len]
    tokens[reuse_len:] = second.tokens
    is_real, functional = np.zeros((2, spec.length), bool)
    is_real[:reuse_len] = real[:reuse_len]
    is_real[reuse_len : reuse_len + second.size] = True
    functional[reuse_len:] = second.functional
    types = np.zeros(spec.length, np.int32)
    types[reuse_len:] = second.types
    return _Row(tokens, is_real, functional, types)


def word_starts(tokens: np.ndarray, spec: ObjectiveSpec) -> np.ndarray:
    """Return bool, True where an n-gram may begin: at the start of a word or a special token."""
    if spec.starts_word is None:
        return np.ones(len(tokens), bool)
    return spec.starts_word[tokens] | spec.vocab.special[tokens]


def ngram_targets(rng: np.random.Generator, starts: np.ndarray, goal: int, config: PLM) -> np.ndarray:
    """Choose targets as `_sample_mask` does it (see the module's docstring).

    An n-gram that would reach the last token ends the search, as there: that token is filled in only.

    Args:
        rng: Random generator of the row.
        starts: bool [n], True where an n-gram may begin.
        goal: Number of targets.
        config: How often an n-gram is drawn.

    Returns:
        bool [n], True at exactly `goal` positions.
    """
    length = len(starts)
    if goal == 0:
        return np.zeros(length, bool)
    # Python's lists, bytes and bisection are faster than numpy's scalars in this loop.
    begins = starts.nonzero()[0].tolist()
    draws = rng.random(2 * goal)
    sizes = (_BOUNDS.searchsorted(_TOTAL * draws[:goal], "right") + 1).tolist()
    offsets = draws[goal:].tolist()
    chosen = bytearray(length)
    current = 0
    missing = goal
    next_begin = 0
    for size, offset in zip(sizes, offsets, strict=True):
        if size > missing:
            size = missing
        context = size * config.mask_alpha // config.mask_beta
        left = int(offset * context)
        next_begin = bisect.bisect_left(begins, current + left, next_begin)
        if missing == 0 or next_begin == len(begins):
            break
        begin = begins[next_begin]
        end = begin + size
        if end >= length:
            break
        chosen[begin:end] = b"\x01" * size
        missing -= size
        current = end + context - left
    is_target = np.frombuffer(chosen, bool)
    if missing:
        others = (~is_target).nonzero()[0]
        is_target[others[rng.choice(len(others), missing, replace=False, shuffle=False)]] = True
    return is_target


class PLMModule(ObjectiveModule):
    """Two streams with memory. A row begins with an empty memory, not with zeros to attend to."""

    def setup(self) -> None:
        """Build the language model."""
        self.lm = TwoStream(self.model, name="model")

    @override
    def initial_carry(self, batch_size: int) -> Memory | None:
        """Return an empty memory of `mem_len` tokens in every layer; None for a `mem_len` of 0."""
        if self.config.mem_len == 0:
            return None
        return empty_memory(self.model, batch_size, self.config.mem_len)

    @override
    def predictions(
        self, batch: Batch, carry: Memory | None, keys: jax.Array | None
    ) -> tuple[Predictions, Memory | None]:
        """Return the query stream at the targets.

        carry: The memory; None is an empty one.

        Returns:
            The query stream [B, P, D] at `target_positions` with the unembedding, and the memory for the next
            batch.
        """
        num_rows, length = batch["tokens"].shape
        (reuse_len, _), _ = parts(length, self.config)
        memory = empty_memory(self.model, num_rows, self.config.mem_len) if carry is None else carry
        _, query_BPD, memory = self.lm(batch, memory, reuse_len, keys=keys)
        return Predictions(query_BPD, self.lm.unembedding()), memory if self.config.mem_len else None


class PLMObjective(Objective):
    """XLNet's permutation language modelling."""

    config_class = PLM
    module = PLMModule
    kinds = ("two_stream",)

    @override
    def frame(self, spec: ObjectiveSpec) -> Frame:
        """Return eos before a text that goes on; with pairs a row is A sep B sep cls."""
        vocab = spec.vocab
        eos = (vocab.eos,)
        if not spec.config.pairs:
            return Frame(before=eos, start=eos, end=eos, place=-1)
        return Frame(
            between=(vocab.sep,),
            after=(vocab.sep, vocab.cls),
            start=eos,
            end=eos,
            second_type=1,
            last_type=2,
            place=-1,
        )

    @override
    def clean_example(
        self, texts: Sequence[np.ndarray], spec: ObjectiveSpec, languages: Sequence[int] = (0, 0)
    ) -> dict[str, np.ndarray]:
        """Make a row of a text after the end of another, or of the two texts of the second part."""
        vocab = spec.vocab
        if not spec.config.pairs:
            window = window_of_texts(self.window_spec(spec), texts, vocab, languages, (vocab.eos,))
            return self.example(np.random.default_rng(0), window, spec)
        a, b = texts
        row = segments_row(a, b, spec.length, spec)
        return {
            "tokens": row.tokens,
            "positions": np.arange(spec.length, dtype=np.int32),
            "segments": leading_ones(row.size, spec.length),
            "types": row.types,
        }

    @override
    def window_spec(self, spec: ObjectiveSpec) -> WindowSpec:
        """Return windows of a stream that advance by the reused part.

        Raises:
            ConfigError: The two parts cannot be filled.
        """
        (reuse_len, first), (rest_len, second) = parts(spec.length, spec.config)
        if not 1 <= reuse_len < spec.length:
            raise ConfigError(
                f"objective.reuse_len = {reuse_len} must lie in 1..{spec.length - 1}, "
                f"below data.sequence_length = {spec.length}"
            )
        if second < 1 or first > reuse_len or second > rest_len:
            most = min(2 * reuse_len, 2 * rest_len + 1)
            raise ConfigError(
                f"objective.num_predict = {first + second} must lie in 2..{most} for parts of "
                f"{reuse_len} and {rest_len} tokens"
            )
        if not spec.config.pairs:
            return WindowSpec(spec.length, "stream", rest_len, both_ways=spec.config.bi_data)
        room = rest_len - NUM_FUNCTIONAL
        if room < 2 or second > room:
            raise ConfigError(
                f"data.sequence_length = {spec.length}: with objective.pairs the second part has {rest_len} "
                f"tokens, of which sep, sep and cls leave {room} for two texts and {second} targets"
            )
        # The end of a sentence is looked for in as many tokens again: of a longer one nothing more could be left.
        ahead = room if spec.config.pair_ends == "sentence" else 0
        # What comes after the reused part is read by the next row too.
        return WindowSpec(
            reuse_len + room + ahead,
            "stream",
            room + ahead,
            second_length=2 * room + ahead,
            both_ways=spec.config.bi_data,
        )

    @override
    def example(self, rng: np.random.Generator, window: Window, spec: ObjectiveSpec) -> dict[str, np.ndarray]:
        """Make a row with a factorisation order.

        window: A piece of a stream; with pairs also text from elsewhere as a second text.

        Returns:
            tokens, positions, segments, rank, query_rank [length]; target_positions, targets, weights [P].
            With pairs also types [length], with bi_data backwards []. Where no token is left but sep and cls,
            a target is missing (weight 0).
        """
        config = spec.config
        row = _pair_row(rng, window, spec) if config.pairs else _plain_row(window)
        drawn = _draw(rng, row, window.backwards, spec)
        is_target = drawn.is_target
        in_order = drawn.has_index
        if row.functional is not None:
            is_target = is_target & ~row.functional
            in_order = in_order | row.functional
        rank = np.where(in_order, drawn.index, drawn.level)
        query_rank = np.where(in_order, drawn.index, drawn.level + 1)
        if row.functional is not None:
            # Functional tokens see themselves: their query rank is one above their rank.
            query_rank += row.functional
        tokens = row.tokens
        if not row.real.all():
            tokens = np.where(row.real, tokens, spec.vocab.pad)
            rank[~row.real] = -1
            query_rank[~row.real] = -1
        arrays = {
            "tokens": tokens.astype(np.int32),
            "positions": np.arange(spec.length, dtype=np.int32),
            "segments": row.real.astype(np.int32),
            "rank": rank,
            "query_rank": query_rank,
        }
        if row.types is not None:
            arrays["types"] = row.types
        if config.bi_data:
            arrays["backwards"] = np.array(window.backwards, np.int32)
        num_targets = sum(goal for _, goal in parts(spec.length, config))
        return arrays | sparse_targets(row.tokens, is_target.nonzero()[0], num_targets, spec.vocab.pad)


class _Drawn(NamedTuple):
    """The drawn order and targets of a row, functional tokens not set apart, [length] each."""

    is_target: np.ndarray
    has_index: np.ndarray  # tokens that see by their index in the order
    index: np.ndarray  # of each token, above all of the part before
    level: np.ndarray  # rank of the others: that of the part's first index less 1


def _draw(rng: np.random.Generator, row: _Row, backwards: bool, spec: ObjectiveSpec) -> _Drawn:
    """Draw the order and the targets of both parts; the whole row's arrays take half the time of two parts'."""
    config = spec.config
    is_target = np.zeros(spec.length, bool)
    index = np.zeros(spec.length, np.int32)
    level = np.zeros(spec.length, np.int32)
    starts = word_starts(row.tokens, spec)
    # N-grams are drawn on the text as it was, in which they begin with words.
    turn = slice(None, None, -1 if backwards else 1)
    start = 0
    for length, goal in parts(spec.length, config):
        num_real = int(np.count_nonzero(row.real[start : start + length]))
        part = slice(start, start + num_real)
        goal = goal * num_real // length
        order = rng.permutation(num_real)
        index[part] = order + start
        level[part] = start - 1
        if config.targets == "cut":
            is_target[part] = order >= num_real - goal
        else:
            is_target[part] = ngram_targets(rng, starts[part][turn], goal, config)[turn]
        start += length
    has_index = is_target if config.targets == "ngram" else np.ones(spec.length, bool)
    return _Drawn(is_target, has_index, index, level)


OBJECTIVE = PLMObjective()
