"""UL2: each denoiser's share, lengths and noise, its mode token, and that nothing of the text is lost."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tests.objectives.rows import decoder, encoder, targets, window
from tests.objectives.test_span_corruption import rebuild
from tlx.base.config import from_dict, to_dict
from tlx.base.errors import ConfigError
from tlx.objectives import span_corruption, ul2
from tlx.objectives.shared.base import ObjectiveSpec
from tlx.objectives.span_corruption import raw_length
from tlx.objectives.ul2 import MODES, UL2, Denoiser
from tlx.text import Vocabulary

VOCAB = Vocabulary(1000)
DRAWS = 20_000
MARKS = {VOCAB.mark(i): mode for i, mode in enumerate(MODES)}


def spec(length: int, config: UL2 | None = None) -> ObjectiveSpec:
    return ObjectiveSpec(config or UL2(), length, VOCAB)


def test_the_seven_denoisers_of_table_1():
    assert [(d.mode, d.mean_span_length, d.noise_density) for d in UL2().denoisers[:6]] == [
        ("R", 3, 0.15),
        ("R", 8, 0.15),
        ("X", 3, 0.5),
        ("X", 8, 0.5),
        ("X", 64, 0.15),
        ("X", 64, 0.5),
    ]
    assert UL2().denoisers[6] == Denoiser("S", split="uniform")
    assert from_dict(UL2, to_dict(UL2())) == UL2()


def test_lengths_leave_room_for_the_mode_token():
    """T5's lengths for an encoder of 511: the mode takes one place (reserved_for_packing in the paper)."""
    this = spec(512)
    for denoiser in UL2().denoisers:
        if denoiser.mode != "S" and denoiser != Denoiser("X", 3, 0.5):
            assert ul2.fit_denoiser(denoiser, this) == (denoiser.spans, *raw_length(511, denoiser.spans))
    assert ul2.OBJECTIVE.window_spec(this).length == raw_length(511, Denoiser("X", 64, 0.5).spans)[0]
    assert ul2.target_length(this) == 511
    without = spec(512, UL2(mode_tokens=False))
    assert ul2.fit_denoiser(UL2().denoisers[0], without)[1:] == (568, 114)


def test_spans_grow_where_they_would_outnumber_the_sentinels():
    many = Denoiser("X", 3, 0.5)
    assert span_corruption.noise_counts(raw_length(512, many.spans)[0], many.spans)[1] == 128
    spans, size, _ = ul2.fit_denoiser(many, spec(512))
    num_noise, num_spans = span_corruption.noise_counts(size, spans)
    assert 90 < num_spans <= 97 and 3.9 < num_noise / num_spans < 4.4 and spans.noise_density == 0.5
    assert ul2.fit_denoiser(many, spec(256))[0] == many.spans


@pytest.mark.slow
@pytest.mark.parametrize("weights", [(1, 1, 1, 1, 1, 1, 1), (4, 4, 2, 2, 2, 2, 4)])
def test_modes_and_denoisers_have_their_shares(weights):
    """Told apart by the mode and by how many sentinels and targets a row has."""
    denoisers = tuple(
        Denoiser(d.mode, d.mean_span_length, d.noise_density, w)
        for d, w in zip(ul2.APPENDIX, weights, strict=True)
    )
    this, rng = spec(128, UL2(denoisers=denoisers)), np.random.default_rng(0)
    length = ul2.OBJECTIVE.window_spec(this).length
    text = window(np.full(length, 500))
    counts: dict[tuple[str, int, int], int] = {}
    for _ in range(DRAWS):
        row = ul2.OBJECTIVE.example(rng, text, this)
        mode = MARKS[int(row["encoder_tokens"][0])]
        kind = (mode, int(row["weights"].sum()) if mode != "S" else 0, int((row["targets"] > 902).sum()))
        counts[kind] = counts.get(kind, 0) + 1
    found, expected = [], []
    for denoiser in denoisers:
        spans, size, num_targets = ul2.fit_denoiser(denoiser, this)
        kind = denoiser.mode, num_targets, span_corruption.noise_counts(size, spans)[1]
        found.append(counts.pop(kind if denoiser.mode != "S" else ("S", 0, 0)))
        expected.append(denoiser.weight / sum(weights) * DRAWS)
    assert not counts and stats.chisquare(found, expected).pvalue > 1e-3


@pytest.mark.slow
def test_s_denoising_cuts_uniformly():
    this, rng = spec(12, UL2(denoisers=(Denoiser("S"),))), np.random.default_rng(1)
    text = window(np.arange(20, 31))
    sizes = np.array([len(targets(ul2.OBJECTIVE.example(rng, text, this))) - 1 for _ in range(DRAWS)])
    assert sizes.min() == 1 and sizes.max() == 10
    assert stats.chisquare(np.bincount(sizes)[1:]).pvalue > 1e-3


def test_s_denoising_of_table_1_writes_a_quarter():
    this, rng = spec(65, UL2(denoisers=(ul2.TABLE_1[-1],))), np.random.default_rng(1)
    for length, written in ((64, 16), (40, 10), (2, 1), (3, 1)):
        row = ul2.OBJECTIVE.example(rng, window(np.arange(20, 20 + length)), this)
        assert targets(row)[:-1] == list(range(20 + length - written, 20 + length))


@pytest.mark.slow
def test_pieces_come_from_anywhere_in_the_window():
    """A denoiser that reads less than the window takes its piece from a uniform place."""
    this = spec(32, UL2(denoisers=(Denoiser("R", 3, 0.15), Denoiser("X", 3, 0.5, 1e-3))))
    rng = np.random.default_rng(2)
    length = ul2.OBJECTIVE.window_spec(this).length
    free = length - ul2.fit_denoiser(this.config.denoisers[0], this)[1]
    assert free > 5
    text = window(np.arange(100, 100 + length))
    first = [encoder(ul2.OBJECTIVE.example(rng, text, this))[1] - 100 for _ in range(DRAWS)]
    counts = np.bincount(first)[: free + 1]
    assert stats.chisquare(counts, np.full(free + 1, counts.sum() / (free + 1))).pvalue > 1e-3


@settings(deadline=None)
@given(st.lists(st.integers(7, 889), min_size=2, max_size=60), st.integers(0, 2**32))
def test_inputs_and_targets_rebuild_a_piece_of_the_text(text, seed):
    this = spec(64)
    text_window = window(np.array(text, np.int32), ul2.OBJECTIVE.window_spec(this).length)
    row = ul2.OBJECTIVE.example(np.random.default_rng(seed), text_window, this)
    mode, *read = encoder(row)
    written = targets(row)
    assert decoder(row) == [VOCAB.bos, *written[:-1]]
    if MARKS[mode] == "S":
        assert read.pop() == written.pop() == VOCAB.eos and read and written
        piece = read + written
    else:
        piece = rebuild(read, written)
    assert any(text[i : i + len(piece)] == piece for i in range(len(text)))


def test_a_vocabulary_without_sentinels_is_an_error():
    with pytest.raises(ConfigError, match="needs more than 3 sentinels, not 2"):
        ul2.OBJECTIVE.window_spec(ObjectiveSpec(UL2(), 64, Vocabulary(100, num_sentinels=2)))


@pytest.mark.parametrize(
    "config, field",
    [
        ({"denoisers": []}, "objective.denoisers is empty"),
        ({"denoisers": [{"mode": "Q"}]}, r"objective.denoisers\[0\].mode = 'Q'"),
        ({"denoisers": [{"mode": "R", "weight": 0.0}]}, r"objective.denoisers\[0\].weight = 0.0"),
    ],
)
def test_wrong_values_are_named(config, field):
    with pytest.raises(ConfigError, match=field):
        from_dict(UL2, config, "objective").validate()
