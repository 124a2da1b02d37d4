"""T5's i.i.d. denoising: rates, styles and layouts, and that nothing of the text is lost."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tests.objectives.rows import decoder, encoder, targets, window
from tlx.base.errors import ConfigError
from tlx.objectives import denoising
from tlx.objectives.denoising import Denoising
from tlx.objectives.shared.base import ObjectiveSpec
from tlx.text import Vocabulary

VOCAB = Vocabulary(1000)
DRAWS = 20_000


def spec(length: int, style: str, **knobs) -> ObjectiveSpec:
    return ObjectiveSpec(Denoising(style=style, **knobs), length, VOCAB)


def row_of(text, style: str, seed: int, length: int = 200, **knobs):
    return denoising.OBJECTIVE.example(
        np.random.default_rng(seed),
        window(np.array(text, np.int32), length - 1),
        spec(length, style, **knobs),
    )


@pytest.mark.slow
@pytest.mark.parametrize("style", denoising.STYLES)
def test_tokens_are_noise_independently_of_each_other(style):
    """Each place at the density, and two neighbours together at its square: no fixed number, no spans."""
    text, length = np.arange(100, 140), 40
    this, rng = spec(length + 1, style, random_token_fraction=0.0), np.random.default_rng(0)
    shown = np.empty((DRAWS, length), bool)
    for i in range(DRAWS):
        shown[i] = np.isin(text, denoising.corrupt(rng, text, this)[0])
    noise = ~shown
    error = np.sqrt(0.15 * 0.85 / DRAWS)
    assert np.abs(noise.mean(axis=0) - 0.15).max() < 4.5 * error
    both = (noise[:, 1:] & noise[:, :-1]).mean()
    assert abs(both - 0.0225) < 5 * np.sqrt(0.0225 / (DRAWS * 39))
    # The number of noise tokens is binomial; T5's span corruption has the same number in every row.
    counts = np.bincount(noise.sum(axis=1), minlength=length + 1)[: length + 1]
    expected = stats.binom.pmf(np.arange(length + 1), length, 0.15) * DRAWS
    few = expected > 10
    pairs = [np.append(x[few], x[~few].sum()) for x in (counts, expected)]
    assert stats.chisquare(*pairs).pvalue > 1e-3


def test_bert_style_shows_ninety_masks_and_ten_random_ids():
    """And leaves none as it is, but for the random id that is the token by chance."""
    text = np.full(100, 500, np.int32)
    this, rng = spec(101, "bert"), np.random.default_rng(1)
    seen = np.concatenate([denoising.corrupt(rng, text, this)[0] for _ in range(2_000)])
    noise = seen != 500
    masks, others = int((seen == VOCAB.mask).sum()), int((noise & (seen != VOCAB.mask)).sum())
    assert abs(noise.mean() - 0.15) < 4 * np.sqrt(0.15 * 0.85 / len(seen))
    assert abs(others / (masks + others) - 0.1) < 4 * np.sqrt(0.09 / (masks + others))
    ids = seen[noise & (seen != VOCAB.mask)]
    assert ids.max() > 980 and ids.min() < 20 and len(np.unique(ids)) > 800


def test_a_row_of_each_style_by_hand():
    """The example of the paper's table 3: noise on "for inviting" and "last"."""
    text = np.arange(20, 30)
    noise = np.isin(np.arange(10), [2, 3, 8])
    assert denoising.replace_by_sentinels(text, noise, VOCAB).tolist() == [
        20,
        21,
        999,
        24,
        25,
        26,
        27,
        998,
        29,
    ]
    assert denoising.replace_by_sentinels(text, ~noise, VOCAB).tolist() == [999, 22, 23, 998, 28, 997]
    imported = Vocabulary(1010, added=10)
    assert denoising.replace_by_sentinels(text, ~noise, imported).tolist() == [999, 22, 23, 998, 28, 997]


@settings(deadline=None)
@given(
    text=st.lists(st.integers(7, 899), max_size=150),
    density=st.floats(0.05, 0.6),
    style=st.sampled_from(denoising.STYLES),
    seed=st.integers(0, 2**32),
)
def test_inputs_and_targets_rebuild_the_text(text, density, style, seed):
    row = row_of(text, style, seed, length=160, noise_density=density)
    if not text:
        assert not encoder(row) and not targets(row)
        return
    read, written = encoder(row), targets(row)
    assert read.pop() == written[-1] == VOCAB.eos
    assert decoder(row) == [VOCAB.bos, *written[:-1]]
    written.pop()
    if style in ("bert", "mask"):
        assert written == text and len(read) == len(text)
        kept = [a == b for a, b in zip(read, text, strict=True)]
        assert style == "bert" or all(same or a == VOCAB.mask for same, a in zip(kept, read, strict=True))
    elif style == "drop":
        assert sorted(read + written) == sorted(text)
        # Both keep their order.
        for part in (read, written):
            rest = iter(text)
            assert all(token in rest for token in part)
    else:
        # A sentinel of one side stands where the other side has a run of text.
        sides = [_runs(read), _runs(written)]
        turn = 0 if read[0] < 900 else 1
        rebuilt = []
        while sides[turn]:
            rebuilt += sides[turn].pop(0)
            turn = 1 - turn
        assert rebuilt == text
        for side in (read, written):
            sentinels = [token for token in side if token >= 900]
            assert sentinels == list(range(999, 999 - len(sentinels), -1))


def _runs(tokens: list[int]) -> list[list[int]]:
    runs, run = [], []
    for token in [*tokens, 999]:
        if token >= 900:
            if run:
                runs.append(run)
            run = []
        else:
            run.append(token)
    return runs


def test_noise_beyond_the_room_stays_text():
    """At a density where the limits of six deviations bind no row is cut."""
    this = dataclasses.replace(Denoising(noise_density=0.5), style="drop")
    rng, text = np.random.default_rng(3), np.arange(100, 108)
    for _ in range(2_000):
        row = denoising.OBJECTIVE.example(rng, window(text), ObjectiveSpec(this, 9, VOCAB))
        assert encoder(row)[-1] == targets(row)[-1] == VOCAB.eos
        assert len(encoder(row)) + len(targets(row)) == 10


def test_too_few_sentinels_are_an_error():
    with pytest.raises(ConfigError, match="needs about 130 sentinels"):
        denoising.OBJECTIVE.window_spec(spec(1024, "spans"))
    assert denoising.OBJECTIVE.window_spec(spec(512, "spans")).length == 511
    assert denoising.OBJECTIVE.window_spec(spec(1024, "drop")).length == 1023


@pytest.mark.parametrize(
    "config, field",
    [
        (Denoising(noise_density=0.0), "objective.noise_density = 0.0"),
        (Denoising(random_token_fraction=1.5), "objective.random_token_fraction = 1.5"),
    ],
)
def test_wrong_values_are_named(config, field):
    with pytest.raises(ConfigError, match=field):
        config.validate()
