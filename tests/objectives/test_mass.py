"""MASS: where the span lies, what the encoder sees of it, and from what the decoder writes it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tests.objectives.rows import decoder, encoder, targets, window
from tlx.base.errors import ConfigError
from tlx.objectives import mass
from tlx.objectives.mass import MASS
from tlx.objectives.shared.base import ObjectiveSpec
from tlx.text import Vocabulary

VOCAB = Vocabulary(1000)
DRAWS = 20_000


def spec(length: int, **knobs) -> ObjectiveSpec:
    return ObjectiveSpec(MASS(**knobs), length, VOCAB)


@pytest.mark.parametrize("length, hidden", [(3, 2), (4, 2), (5, 2), (7, 4), (9, 4), (256, 128), (511, 256)])
def test_half_of_the_row_is_hidden_rounded_as_python_rounds(length, hidden):
    assert mass.span_length(length, MASS()) == hidden


def test_spans_start_as_the_code_draws_them():
    """20% at the start, 20% at the end, and 60% anywhere, where the two ends get their share again."""
    rng, length = np.random.default_rng(0), 20
    starts = [mass.span_start(rng, length, 10, MASS()) for _ in range(DRAWS)]
    counts = np.bincount(starts, minlength=length)
    assert counts[0] == 0 and counts[11:].sum() == 0
    shares = np.full(10, 0.06)
    shares[[0, -1]] += 0.2
    assert stats.chisquare(counts[1:11], shares * DRAWS).pvalue > 1e-3


def test_the_encoder_sees_eighty_masks_ten_random_ids_and_ten_tokens():
    rng, this = np.random.default_rng(1), spec(102)
    text = np.full(100, 500, np.int32)
    kinds = np.zeros(3)
    for _ in range(2_000):
        row = mass.OBJECTIVE.example(rng, window(text), this)
        begin = row["decoder_positions"][0] + 1
        seen = row["encoder_tokens"][begin : begin + 51]
        here = row["targets"] != VOCAB.eos
        masked, kept = seen == VOCAB.mask, seen == row["targets"]
        kinds += [(masked & here).sum(), (kept & here).sum(), (~masked & ~kept & here).sum()]
        outside = np.delete(row["encoder_tokens"], np.arange(begin, begin + 51))
        assert np.isin(outside, [VOCAB.bos, 500, VOCAB.eos]).all() and outside[0] == VOCAB.bos
    # A random id is the mask or the token itself once in a thousand.
    assert stats.chisquare(kinds, np.array([0.8001, 0.1001, 0.0998]) * kinds.sum()).pvalue > 1e-3


@settings(deadline=None)
@given(st.lists(st.integers(7, 899), max_size=60), st.integers(0, 2**32))
def test_span_and_rest_rebuild_the_text(text, seed):
    row = mass.OBJECTIVE.example(np.random.default_rng(seed), window(np.array(text, np.int32), 60), spec(62))
    if not text:
        assert not encoder(row) and not targets(row)
        return
    whole, written, read = [VOCAB.bos, *text, VOCAB.eos], targets(row), encoder(row)
    begin = int(row["decoder_positions"][0]) + 1
    stop = begin + len(written)
    assert len(written) == mass.span_length(len(whole), MASS())
    assert read[:begin] + written + read[stop:] == whole
    # The decoder reads the token before each, at its place in the text.
    assert decoder(row) == whole[begin - 1 : stop - 1]
    assert row["decoder_positions"][: len(written)].tolist() == list(range(begin - 1, stop - 1))


def test_the_encoder_hides_what_the_decoder_writes():
    """With nothing kept or random no token of the span is left in the encoder: the shifted interval of
    MASS-supNMT would leave the first one visible."""
    rng, this = np.random.default_rng(2), spec(42, mask_token_fraction=1.0, random_token_fraction=0.0)
    for _ in range(300):
        row = mass.OBJECTIVE.example(rng, window(np.arange(100, 140)), this)
        written = [token for token in targets(row) if token != VOCAB.eos]
        assert not set(written) & set(encoder(row))
        assert decoder(row)[0] in encoder(row)


def test_wrong_values_are_named():
    with pytest.raises(ConfigError, match="objective.span_fraction = 1.0"):
        MASS(span_fraction=1.0).validate()
    with pytest.raises(
        ConfigError, match="objective.mask_token_fraction = 0.8 and objective.random_token_fraction = 0.3"
    ):
        MASS(random_token_fraction=0.3).validate()
