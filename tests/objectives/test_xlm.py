"""XLM: rows of one language and of pairs, languages and positions, Bernoulli masks."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tests.objectives.small import ENCODER, VOCAB, at, batch_of, masked_losses, small, spec_of
from tlx.base.errors import ConfigError
from tlx.data.window import Window, WindowSpec, padding_window
from tlx.models.transformer import Transformer
from tlx.objectives import xlm
from tlx.objectives.xlm import XLM

LENGTH, EOS = 24, VOCAB.eos
NOTHING = padding_window(WindowSpec(LENGTH - 1), VOCAB.pad)


def window(ids: list[int], language: int = 0) -> Window:
    real = np.arange(LENGTH - 1) < len(ids)
    tokens = np.pad(ids, (0, LENGTH - 1 - len(ids))).astype(np.int32)
    return Window(tokens, real * 1, np.where(real, np.arange(LENGTH - 1), 0), NOTHING, language)


def pair(first: list[int], second: list[int]) -> Window:
    return window([*first, EOS], 1)._replace(second=window([*second, EOS], 2)._replace(second=None))


def test_a_pair_by_hand():
    read = pair([10, 11, 12], [20, 21])
    tokens, positions, langs = xlm.translation_row(read, spec_of("xlm"))
    assert tokens.tolist() == [EOS, 10, 11, 12, EOS, EOS, 20, 21, EOS]
    assert positions.tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3]
    assert langs.tolist() == [1] * 5 + [2] * 4
    tokens, positions, langs = xlm.translation_row(read, spec_of("xlm", XLM(reset_positions=False)))
    assert tokens.tolist() == [EOS, 10, 11, 12, EOS, 20, 21, EOS]
    assert positions.tolist() == list(range(8)) and langs.tolist() == [1] * 4 + [2] * 4


def test_text_alone_is_eos_and_the_stream_in_one_segment():
    read = window([10, 11, EOS, 12], 3)
    read.segments[3] = 2
    row = xlm.OBJECTIVE.example(np.random.default_rng(0), read, spec_of("xlm", XLM(masking_rate=1e-9)))
    assert row["tokens"].tolist()[:5] == [EOS, 10, 11, EOS, 12]
    assert row["segments"].tolist() == [1] * 5 + [0] * 19
    assert row["langs"].tolist() == [3] * 5 + [0] * 19 and row["positions"][4] == 4


@settings(deadline=None)
@given(
    st.lists(st.integers(7, 89), min_size=1, max_size=22),
    st.lists(st.integers(7, 89), min_size=1, max_size=22),
    st.booleans(),
    st.integers(0, 2**32),
)
def test_pairs_can_be_rebuilt_and_have_exactly_their_eos(first, second, reset, seed):
    this = spec_of("xlm", XLM(reset_positions=reset, masking_rate=0.4))
    row = xlm.OBJECTIVE.example(np.random.default_rng(seed), pair(first, second), this)
    tokens, real = row["tokens"].copy(), row["weights"] > 0
    tokens[row["target_positions"][real]] = row["targets"][real]
    tokens = tokens[row["segments"] > 0]
    assert np.sum(tokens == EOS) == (4 if reset else 3)
    room = LENGTH - (4 if reset else 3)
    langs = row["langs"][row["segments"] > 0]
    a, b = ([t for t in tokens[langs == language].tolist() if t != EOS] for language in (1, 2))
    assert a == first[: len(a)] and b == second[: len(b)]
    assert len(a) + len(b) == min(len(first) + len(second), room)
    if len(first) + len(second) > room:
        assert len(a) == len(first) or len(b) == len(second) or abs(len(a) - len(b)) <= 1
    assert 0 not in row["target_positions"][real]


@pytest.mark.slow
def test_each_token_but_the_first_is_a_target_by_chance():
    """Counts are binomial: BERT's rule would always take the same number."""
    this, rng, read = spec_of("xlm"), np.random.default_rng(1), pair(list(range(10, 20)), list(range(30, 40)))
    rows = [xlm.OBJECTIVE.example(rng, read, this) for _ in range(20_000)]
    counts = np.bincount([int(row["weights"].sum()) for row in rows], minlength=24)
    expected = stats.binom.pmf(np.arange(24), 23, 0.15) * 20_000
    rare = expected < 5
    pooled = [np.append(x[~rare], x[rare].sum()) for x in (counts, expected)]
    assert stats.chisquare(*pooled).pvalue > 1e-3
    places = np.concatenate([row["target_positions"][row["weights"] > 0] for row in rows])
    assert stats.chisquare(np.bincount(places, minlength=24)[1:]).pvalue > 1e-3  # the inner eos too
    shown = np.concatenate([row["tokens"][row["target_positions"][row["weights"] > 0]] for row in rows])
    assert stats.binomtest(int((shown == VOCAB.mask).sum()), len(shown), 0.801).pvalue > 1e-3
    assert xlm.max_predictions(256, XLM()) == 73 and xlm.max_predictions(6, XLM(masking_rate=1.0)) == 5


def test_loss_is_numpys_and_knows_the_languages():
    this = spec_of("xlm", XLM(masking_rate=0.3))
    batch = batch_of(this, [pair(list(range(10, 20)), list(range(30, 38))), window(list(range(40, 63)))])
    model = {"embedding": ENCODER.embedding.__class__(num_languages=3, norm=True)}
    it = small(this, batch, **model)
    encoder = Transformer(dataclasses.replace(ENCODER, **model))
    hidden = np.asarray(encoder.apply({"params": it.params["model"]}, batch))
    losses = masked_losses(
        it.params["heads"]["mlm"],
        at(hidden, batch["target_positions"]),
        batch["targets"],
        it.params["model"]["output"]["kernel"],
    )
    terms, _ = it.forward(batch)
    np.testing.assert_allclose(terms["loss"].sum, (losses * batch["weights"]).sum(), rtol=1e-5)
    swapped = {**batch, "langs": np.where(batch["langs"] == 2, 1, batch["langs"])}
    assert float(it.forward(swapped)[0]["loss"].sum) != float(terms["loss"].sum)


def test_a_row_of_padding_has_no_weight_and_short_rows_are_refused():
    row = xlm.OBJECTIVE.example(np.random.default_rng(0), NOTHING._replace(second=NOTHING), spec_of("xlm"))
    assert not any(row[key].any() for key in ("weights", "segments", "langs"))
    with pytest.raises(ConfigError, match="data.sequence_length = 5"):
        xlm.OBJECTIVE.window_spec(spec_of("xlm", length=5))
    with pytest.raises(ConfigError, match="objective.masking_rate = 1.5"):
        XLM(masking_rate=1.5).validate()
