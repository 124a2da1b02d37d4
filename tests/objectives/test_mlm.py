"""Masked language modelling: BERT's counts, shares and exclusions."""

import numpy as np
import pytest
from scipy import stats

from tlx.base.errors import ConfigError
from tlx.data.window import Window
from tlx.objectives import mlm
from tlx.objectives.shared.base import ObjectiveSpec
from tlx.objectives.shared.masking import num_predictions
from tlx.text import Vocabulary

VOCAB = Vocabulary(60, num_sentinels=8)
LENGTH = 32
DRAWS = 20_000


def spec(config: mlm.MLM | None = None, length: int = LENGTH) -> ObjectiveSpec:
    return ObjectiveSpec(config or mlm.MLM(), length, VOCAB)


def window(num_text: int, length: int = LENGTH, seed: int = 0) -> Window:
    """A document of `num_text` ordinary tokens, then padding."""
    tokens, segments, positions = np.zeros((3, length - 2), np.int32)
    tokens[:num_text] = np.random.default_rng(seed).integers(7, 52, num_text)
    segments[:num_text] = 1
    positions[:num_text] = np.arange(num_text)
    return Window(tokens, segments, positions)


@pytest.mark.parametrize(
    "length, count", [(2, 1), (3, 1), (10, 2), (30, 4), (50, 8), (70, 10), (123, 18), (128, 19), (512, 77)]
)
def test_counts_round_half_to_even_and_include_cls_and_sep(length, count):
    assert num_predictions(length, mlm.MLM()) == count
    row = mlm.OBJECTIVE.example(np.random.default_rng(0), window(length - 2, length), spec(length=length))
    assert row["weights"].sum() == min(count, length - 2)
    assert row["weights"].shape == row["targets"].shape == (count,)


def test_max_predictions_caps():
    config = mlm.MLM(max_predictions=20)
    assert num_predictions(512, config) == 20
    row = mlm.OBJECTIVE.example(np.random.default_rng(0), window(510, 512), spec(config, 512))
    assert row["weights"].tolist() == [1.0] * 20


def test_frame_of_two_documents_and_padding():
    tokens = np.arange(10, 40, dtype=np.int32)
    segments = np.repeat([1, 2, 0], [12, 15, 3]).astype(np.int32)
    positions = np.r_[0:12, 0:15, 0, 0, 0].astype(np.int32)
    text = Window(tokens, segments, positions)
    assert mlm.with_special_tokens(text, spec()).tokens.tolist() == [
        VOCAB.cls,
        *range(10, 37),
        VOCAB.sep,
        0,
        0,
        0,
    ]
    row = mlm.OBJECTIVE.example(np.random.default_rng(0), text, spec())
    assert row["segments"].tolist() == [1] * 13 + [2] * 16 + [0] * 3
    assert row["positions"].tolist() == [*range(13), *range(16), 0, 0, 0]


def test_inputs_and_targets_rebuild_the_row():
    rng = np.random.default_rng(1)
    for num_text in (1, 2, 17, 29, 30):
        text = window(num_text, seed=num_text)
        row = mlm.OBJECTIVE.example(rng, text, spec())
        real = row["weights"] > 0
        assert np.all(np.diff(row["target_positions"][real]) > 0)
        rebuilt = row["tokens"].copy()
        rebuilt[row["target_positions"][real]] = row["targets"][real]
        assert np.array_equal(rebuilt, mlm.with_special_tokens(text, spec()).tokens)


def test_special_tokens_are_never_targets():
    rng = np.random.default_rng(2)
    text = window(30)
    text.tokens[[3, 9, 29]] = VOCAB.eos
    text.tokens[5] = VOCAB.unk
    text.tokens[6] = VOCAB.sentinel(2)
    for _ in range(2000):
        row = mlm.OBJECTIVE.example(rng, text, spec())
        assert not VOCAB.special[row["targets"]].any()
        assert row["weights"].sum() == 5
    text.tokens[2:30] = VOCAB.eos
    assert mlm.OBJECTIVE.example(rng, text, spec())["weights"].tolist() == [1.0, 1.0, 0.0, 0.0, 0.0]


def test_a_window_of_padding_has_no_weight():
    row = mlm.OBJECTIVE.example(np.random.default_rng(3), window(0), spec())
    assert not any(row[key].any() for key in ("tokens", "weights", "segments", "positions"))


@pytest.fixture(scope="module")
def rows() -> dict[str, np.ndarray]:
    """20,000 draws from one window of 30 tokens: original, target positions and what is shown there."""
    rng, text, this = np.random.default_rng(4), window(30), spec()
    drawn = [mlm.OBJECTIVE.example(rng, text, this) for _ in range(DRAWS)]
    positions = np.stack([row["target_positions"] for row in drawn])
    shown = np.take_along_axis(np.stack([row["tokens"] for row in drawn]), positions, axis=1)
    targets = np.stack([row["targets"] for row in drawn])
    return {"positions": positions, "shown": shown, "targets": targets}


def test_shares_are_80_10_10(rows):
    masked = np.sum(rows["shown"] == VOCAB.mask)
    kept = np.sum(rows["shown"] == rows["targets"])
    total = rows["shown"].size
    # A random id is mask, or the token itself, once in V times.
    by_chance = 0.1 / VOCAB.size
    expected = np.array([0.8 + by_chance, 0.1 + by_chance, 0.1 - 2 * by_chance]) * total
    assert stats.chisquare([masked, kept, total - masked - kept], expected).pvalue > 1e-3


def test_random_ids_come_from_the_whole_vocabulary(rows):
    other = (rows["shown"] != VOCAB.mask) & (rows["shown"] != rows["targets"])
    ids, originals = rows["shown"][other], rows["targets"][other]
    counts = np.bincount(ids, minlength=VOCAB.size)
    # Each original excludes itself from what can be told apart.
    expected = (len(originals) - np.bincount(originals, minlength=VOCAB.size)) / (VOCAB.size - 2)
    expected[VOCAB.mask] = 0
    keep = np.arange(VOCAB.size) != VOCAB.mask
    expected *= counts.sum() / expected.sum()
    assert stats.chisquare(counts[keep], expected[keep]).pvalue > 1e-3


def test_positions_are_uniform_and_drawn_without_replacement(rows):
    assert all(len(set(row)) == len(row) for row in rows["positions"][:1000].tolist())
    counts = np.bincount(rows["positions"].ravel(), minlength=LENGTH)
    assert counts[0] == counts[LENGTH - 1] == 0
    assert stats.chisquare(counts[1:-1]).pvalue > 1e-3


def test_shares_are_drawn_for_each_token(rows):
    masked = (rows["shown"] == VOCAB.mask).sum(axis=1)
    observed = np.bincount(masked, minlength=6)
    expected = stats.binom.pmf(np.arange(6), 5, 0.8 + 0.1 / VOCAB.size) * DRAWS
    assert stats.chisquare(observed, expected * (DRAWS / expected.sum())).pvalue > 1e-3


@pytest.mark.parametrize(
    "config, field",
    [
        (mlm.MLM(masking_rate=0.0), "objective.masking_rate = 0.0"),
        (mlm.MLM(mask_token_fraction=1.5), "objective.mask_token_fraction = 1.5"),
        (mlm.MLM(random_token_fraction=0.3), "objective.random_token_fraction = 0.3 must be at most"),
        (mlm.MLM(max_predictions=0), "objective.max_predictions = 0"),
    ],
)
def test_wrong_values_are_named(config, field):
    with pytest.raises(ConfigError, match=field):
        config.validate()


def test_too_short_a_sequence_is_an_error():
    with pytest.raises(ConfigError, match="data.sequence_length = 2"):
        mlm.OBJECTIVE.window_spec(spec(length=2))
