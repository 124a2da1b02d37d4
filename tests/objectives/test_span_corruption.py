"""Span corruption: T5's counts and layout, and that nothing of the text is lost."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tlx.base.errors import ConfigError
from tlx.data.window import Window
from tlx.objectives import span_corruption
from tlx.objectives.shared.base import ObjectiveSpec
from tlx.objectives.span_corruption import SpanCorruption
from tlx.text import Vocabulary

VOCAB = Vocabulary(1000)
DRAWS = 20_000


def spec(length: int, config: SpanCorruption | None = None, vocab: Vocabulary = VOCAB) -> ObjectiveSpec:
    return ObjectiveSpec(config or SpanCorruption(), length, vocab)


def window(tokens: np.ndarray, length: int) -> Window:
    padded, segments, positions = np.zeros((3, length), np.int32)
    padded[: len(tokens)] = tokens
    segments[: len(tokens)] = 1
    positions[: len(tokens)] = np.arange(len(tokens))
    return Window(padded, segments, positions)


def rebuild(encoder: list[int], targets: list[int], vocab: Vocabulary = VOCAB) -> list[int]:
    """The text: each sentinel of the input replaced by what follows it in the targets."""
    assert encoder[-1] == vocab.eos and targets[-1] == vocab.eos
    first_sentinel = vocab.size - vocab.num_sentinels
    spans, span = {}, None
    for token in targets[:-1]:
        if token >= first_sentinel:
            span = spans.setdefault(token, [])
        else:
            span.append(token)
    pieces = [spans[token] if token >= first_sentinel else [token] for token in encoder[:-1]]
    return list(itertools.chain.from_iterable(pieces))


@pytest.mark.parametrize(
    "length, density, mean, raw, targets",
    [
        (512, 0.15, 3, 568, 114),
        (128, 0.15, 3, 141, 29),
        (256, 0.15, 3, 284, 58),
        (1024, 0.15, 3, 1137, 229),
        (512, 0.5, 3, 766, 512),
        (512, 0.15, 8, 588, 100),
        (512, 0.5, 64, 1006, 512),
        (64, 0.2, 2, 70, 22),
    ],
)
def test_lengths_are_those_of_random_spans_helper(length, density, mean, raw, targets):
    config = SpanCorruption(noise_density=density, mean_noise_span_length=mean)
    assert span_corruption.raw_length(length, config) == (raw, targets)
    assert span_corruption.corrupted_lengths(raw, config) == (length, targets)


@pytest.mark.parametrize(
    "length, noise, spans", [(190, 29, 10), (30, 4, 1), (2, 1, 1), (3, 1, 1), (10, 2, 1), (568, 85, 28)]
)
def test_noise_is_counted_in_float32_and_halves_go_to_even(length, noise, spans):
    assert span_corruption.noise_counts(length, SpanCorruption()) == (noise, spans)


def test_nothing_is_padded_or_cut_at_any_length():
    rng = np.random.default_rng(0)
    for length in range(3, 400):
        this = spec(length)
        raw = span_corruption.OBJECTIVE.window_spec(this).length
        row = span_corruption.OBJECTIVE.example(rng, window(np.full(raw, 9), raw), this)
        assert row["encoder_segments"].all() and row["weights"].all() and row["decoder_segments"].all()
        assert row["encoder_tokens"][-1] == row["targets"][-1] == VOCAB.eos


@settings(deadline=None)
@given(
    text=st.lists(st.integers(7, 899), max_size=150),
    density=st.floats(0.05, 0.6),
    mean=st.floats(1.5, 10),
    seed=st.integers(0, 2**32),
)
def test_inputs_and_targets_rebuild_the_text(text, density, mean, seed):
    this = spec(200, SpanCorruption(noise_density=density, mean_noise_span_length=mean))
    row = span_corruption.OBJECTIVE.example(
        np.random.default_rng(seed), window(np.array(text, np.int32), 150), this
    )
    encoder = row["encoder_tokens"][row["encoder_segments"] > 0].tolist()
    targets = row["targets"][row["weights"] > 0].tolist()
    if not text:
        assert not encoder and not targets
        return
    assert rebuild(encoder, targets) == text
    decoder = row["decoder_tokens"][row["decoder_segments"] > 0].tolist()
    assert decoder == [VOCAB.bos, *targets[:-1]]
    if len(text) > 1:
        noise, spans = span_corruption.noise_counts(len(text), this.config)
        sentinels = list(range(999, 999 - spans, -1))
        assert [token for token in encoder if token >= 900] == sentinels
        assert [token for token in targets if token >= 900] == sentinels
        assert len(targets) == noise + spans + 1
        # Starts with text, ends with noise.
        assert encoder[0] == text[0] and encoder[-2] == sentinels[-1] and targets[0] == 999


def test_sentinels_are_the_vocabularys_own():
    """An imported one has ids behind its sentinels, which a model never predicts."""
    imported, text = Vocabulary(1010, added=10), np.arange(10, 60)
    ours, theirs = (
        span_corruption.corrupt(np.random.default_rng(0), text, spec(60, vocab=vocab))
        for vocab in (VOCAB, imported)
    )
    assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_one_token_is_left_alone():
    encoder, targets = span_corruption.corrupt(np.random.default_rng(0), np.array([42], np.int32), spec(64))
    assert encoder.tolist() == [42, VOCAB.eos] and targets.tolist() == [999, VOCAB.eos]


def test_compositions_are_uniform():
    rng = np.random.default_rng(1)
    drawn = [tuple(span_corruption.composition(rng, 6, 3).tolist()) for _ in range(DRAWS)]
    legal = [c for c in itertools.product(range(1, 7), repeat=3) if sum(c) == 6]
    counts = [drawn.count(c) for c in legal]
    assert sum(counts) == DRAWS
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.slow
def test_masks_are_uniform_among_the_legal_ones():
    """12 tokens, 3 of them noise in 2 spans: 2 x 8 masks that start with text and end with noise."""
    rng, text = np.random.default_rng(2), np.arange(10, 22, dtype=np.int32)
    this = spec(64, SpanCorruption(noise_density=0.25, mean_noise_span_length=1.5))
    counts: dict[tuple[int, ...], int] = {}
    for _ in range(DRAWS):
        encoder, _ = span_corruption.corrupt(rng, text, this)
        mask = tuple(np.isin(text, encoder, invert=True).tolist())
        counts[mask] = counts.get(mask, 0) + 1
    assert len(counts) == 16 and all(sum(mask) == 3 and mask[-1] and not mask[0] for mask in counts)
    assert stats.chisquare(list(counts.values())).pvalue > 1e-3


def test_too_few_sentinels_are_an_error():
    with pytest.raises(ConfigError, match="needs 114 sentinels .* vocabulary has 100"):
        span_corruption.OBJECTIVE.window_spec(spec(2048))
    assert span_corruption.OBJECTIVE.window_spec(spec(1024)).length == 1137


@pytest.mark.parametrize(
    "config, field",
    [
        (SpanCorruption(noise_density=0.0), "objective.noise_density = 0.0"),
        (SpanCorruption(noise_density=1.0), "objective.noise_density = 1.0"),
        (SpanCorruption(mean_noise_span_length=0.5), "objective.mean_noise_span_length = 0.5"),
    ],
)
def test_wrong_values_are_named(config, field):
    with pytest.raises(ConfigError, match=field):
        config.validate()
