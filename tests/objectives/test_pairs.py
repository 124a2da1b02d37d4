"""Next-sentence prediction and sentence order: how the two texts are cut, labelled and scored."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tests.objectives.small import (
    ENCODER,
    LENGTH,
    VOCAB,
    at,
    batch_of,
    log_softmax,
    masked_losses,
    small,
    spec_of,
    text,
)
from tlx.base.errors import ConfigError
from tlx.data.window import Window
from tlx.models.transformer import Transformer
from tlx.objectives import nsp, sop
from tlx.objectives.shared import segment_pairs
from tlx.objectives.shared.base import ObjectiveSpec

DRAWS = 20_000
ENDS = np.isin(np.arange(VOCAB.size), (80, 81, 82))  # ids that end a sentence
SWAPS = {"nsp": False, "sop": True}


def spec(name: str = "nsp", ends: np.ndarray | None = ENDS, **kwargs) -> ObjectiveSpec:
    config = {"nsp": nsp.NSP, "sop": sop.SOP}[name](**kwargs)
    return spec_of(name, config, ends_sentence=ends)


def window(tokens: list[int], other: list[int], room: int = LENGTH - 3) -> Window:
    def padded(ids: list[int]) -> Window:
        real = np.arange(room) < len(ids)
        return Window(np.pad(ids, (0, room - len(ids))).astype(np.int32), real * 1, real * np.arange(room))

    return padded(tokens)._replace(second=padded(other))


CHUNK = [10, 11, 80, 12, 13, 14, 81, 82, 15, 80, 16, 17, 18, 19, 80, 20, 21, 22, 23, 24, 25]
OTHER = [40, 41, 42, 80, 43, 44, 45, 46, 47, 80, *range(48, 59)]
CUTS = [3, 8, 10, 15]


def two_texts(this: ObjectiveSpec, count: int, chunk=CHUNK, other=OTHER):
    rng, swap = np.random.default_rng(0), SWAPS[this.config.name]
    found = [segment_pairs.two_texts(rng, window(chunk, other), this, swap) for _ in range(count)]
    return [(a.tolist(), b.tolist(), label) for a, b, label in found]


def test_sentences_end_behind_their_last_mark():
    assert segment_pairs.sentence_ends(np.array(CHUNK), spec()).tolist() == [*CUTS, 21]
    assert segment_pairs.sentence_ends(np.array([9, 9]), spec(ends=None)).tolist() == [1, 2]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nsp", "sop"])
def test_half_follow_and_a_is_a_random_number_of_sentences(name):
    found = two_texts(spec(name, short_sequence_fraction=0.0), DRAWS)
    labels = np.array([label for *_, label in found])
    assert stats.binomtest(int(labels.sum()), DRAWS, 0.5).pvalue > 1e-3
    for label in (0, 1) if name == "sop" else (0,):
        firsts = [a if not (label and name == "sop") else b for a, b, other in found if other == label]
        counts = [sum(len(first) == cut for first in firsts) for cut in CUTS]
        # Not the chunk's middle, not any token, and never the whole chunk.
        assert sum(counts) == len(firsts) and stats.chisquare(counts).pvalue > 1e-3
    for a, b, label in found[:500]:
        if not label:
            assert a + b == CHUNK
        elif name == "sop":
            assert b + a == CHUNK
        else:
            # Whole sentences of the other document that fill the row, cut down to it at either end.
            assert _within(a, CHUNK) and _within(b, OTHER)
            assert len(a) + len(b) == LENGTH - 3


def _within(piece: list[int], whole: list[int]) -> bool:
    return f" {' '.join(map(str, piece))} " in f" {' '.join(map(str, whole))} "


def test_alberts_random_text_is_the_other_order_and_not_another_document():
    found = two_texts(spec("sop", short_sequence_fraction=0.0), 500)
    assert all(not set(a + b) & set(range(40, 59)) for a, b, _ in found)
    assert any(set(a + b) & set(range(40, 59)) for a, b, _ in two_texts(spec("nsp"), 500))


@pytest.mark.parametrize("name", ["nsp", "sop"])
def test_one_sentence_gets_another_document_and_label_1(name):
    for a, b, label in two_texts(spec(name), 300, chunk=[10, 11, 12, 80]):
        assert label == 1 and a == [10, 11, 12, 80] and b[0] in OTHER
    assert two_texts(spec(name), 1, chunk=[], other=[]) == [([], [], 0)]


@pytest.mark.slow
def test_one_row_in_ten_is_cut_short():
    """A target uniform in 2..21, then on to the end of a sentence: 15 or fewer of 21 tokens remain."""
    chunks = [len(a) + len(b) for a, b, label in two_texts(spec("sop"), DRAWS) if label == 0 and (a or b)]
    counts = np.array([np.sum(np.array(chunks) == size) for size in (3, 8, 10, 15, 21)])
    assert counts.sum() == len(chunks)
    # Of the targets 2..21: 2 lead to the first end, 5, 2 and 5 to the others. One sentence is label 1.
    share = np.array([0, 5, 2, 5, 6]) / 20 * 0.1 * 0.5 + np.array([0, 0, 0, 0, 0.9 * 0.5])
    expected = share[1:] / share.sum() * len(chunks)
    assert counts[0] == 0 and stats.chisquare(counts[1:], expected).pvalue > 1e-3


@settings(deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(2, 30), st.integers(0, 2**32))
def test_truncation_is_token_by_token(num_a, num_b, room, seed):
    a, b = np.arange(num_a), 100 + np.arange(num_b)
    short_a, short_b = segment_pairs.truncate_pair(np.random.default_rng(seed), a, b, room)
    while num_a + num_b > room:  # BERT's loop
        if num_a > num_b:
            num_a -= 1
        else:
            num_b -= 1
    assert (len(short_a), len(short_b)) == (num_a, num_b)
    for short in (short_a, short_b):
        assert np.array_equal(short, short[:1] + np.arange(len(short)))  # one piece, from either end


def test_truncation_takes_either_end_alike():
    rng, a = np.random.default_rng(1), np.arange(10)
    fronts = [int(segment_pairs.truncate_pair(rng, a, a[:3], 9)[0][0]) for _ in range(DRAWS)]
    expected = stats.binom.pmf(np.arange(5), 4, 0.5) * DRAWS
    assert stats.chisquare(np.bincount(fronts, minlength=5), expected).pvalue > 1e-3


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(7, 89) | st.just(VOCAB.eos), max_size=21),
    st.lists(st.integers(7, 89), min_size=1, max_size=21),
    st.sampled_from(["nsp", "sop"]),
    st.integers(0, 2**32),
)
def test_a_row_is_cls_a_sep_b_sep_and_can_be_rebuilt(chunk, other, name, seed):
    this, read = spec(name), window(chunk, other)
    row = {"nsp": nsp, "sop": sop}[name].OBJECTIVE.example(np.random.default_rng(seed), read, this)
    a, b, label = segment_pairs.two_texts(np.random.default_rng(seed), read, this, SWAPS[name])
    tokens, real = row["tokens"].copy(), row["weights"] > 0
    tokens[row["target_positions"][real]] = row["targets"][real]
    expected = [VOCAB.cls, *a, VOCAB.sep, *b, VOCAB.sep] if len(a) else []
    assert tokens.tolist() == expected + [VOCAB.pad] * (LENGTH - len(expected))
    assert row["label"] == label
    assert row["segments"].tolist() == [1] * len(expected) + [0] * (LENGTH - len(expected))
    assert row["types"].sum() == (len(b) + 1 if len(a) else 0)
    assert row["types"][len(a) + 2 : len(expected)].all() or not len(a)
    assert not VOCAB.special[row["targets"][real]].any()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nsp", "sop"])
def test_loss_is_numpys(name):
    this = spec(name, masking_rate=0.4)
    empty = window([], [])
    windows = [text(21, seed=i)._replace(second=text(21, seed=9 + i)) for i in range(4)]
    batch = batch_of(this, [*windows, empty])
    it = small(this, batch)
    terms, _ = it.forward(batch)
    hidden = np.asarray(Transformer(ENCODER).apply({"params": it.params["model"]}, batch))
    losses = masked_losses(
        it.params["heads"]["mlm"],
        at(hidden, batch["target_positions"]),
        batch["targets"],
        it.params["model"]["output"]["kernel"],
    )
    np.testing.assert_allclose(terms["loss"].sum, (losses * batch["weights"]).sum(), rtol=1e-5)
    head = it.params["heads"][name]
    pooled = np.tanh(hidden[:, 0] @ head["pooler"]["kernel"] + head["pooler"]["bias"])
    log_p = log_softmax(pooled @ head["classifier"]["kernel"] + head["classifier"]["bias"])
    assert set(batch["label"][:4]) == {0, 1}
    expected = -log_p[np.arange(4), batch["label"][:4]].sum()
    np.testing.assert_allclose(terms[f"{name}_loss"].sum, expected, rtol=1e-5)
    assert terms[f"{name}_loss"].weight == terms[f"{name}_accuracy"].weight == 4
    assert terms[f"{name}_accuracy"].sum == (log_p[:4].argmax(1) == batch["label"][:4]).sum()
    assert [terms[key].loss_weight for key in ("loss", f"{name}_loss", f"{name}_accuracy")] == [1, 1, 0]


def test_too_short_a_sequence_or_a_wrong_rate_is_an_error():
    with pytest.raises(ConfigError, match="data.sequence_length = 4 must be at least 5 for nsp"):
        nsp.OBJECTIVE.window_spec(spec_of("nsp", length=4))
    with pytest.raises(ConfigError, match="objective.short_sequence_fraction = 1.5"):
        nsp.NSP(short_sequence_fraction=1.5).validate()
