"""Permutation language modelling: XLNet's choice of targets and who sees whom."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tests.tiers import tiers
from tlx.base.errors import ConfigError
from tlx.data.window import Window, reversed_window
from tlx.objectives import plm
from tlx.objectives.shared.base import ObjectiveSpec
from tlx.text import Vocabulary

VOCAB = Vocabulary(400)
DRAWS = 20_000
# Ids from 200 on begin a word.
STARTS_WORD = np.arange(VOCAB.size) >= 200


def spec(length: int, config: plm.PLM | None = None, starts_word: np.ndarray | None = None) -> ObjectiveSpec:
    return ObjectiveSpec(config or plm.PLM(), length, VOCAB, starts_word)


def window(length: int, num_text: int | None = None) -> Window:
    num_text = length if num_text is None else num_text
    tokens, segments, positions = np.zeros((3, length), np.int32)
    tokens[:num_text] = np.random.default_rng(0).integers(7, 300, num_text)
    segments[:num_text] = 1
    positions[:num_text] = np.arange(num_text)
    return Window(tokens, segments, positions)


def visible(row: dict[str, np.ndarray]) -> np.ndarray:
    """bool [T, T]: as the model reads the two ranks (query stream)."""
    return row["query_rank"][:, None] > row["rank"][None, :]


def hidden_by_definition(order: np.ndarray, is_masked: np.ndarray, reuse_len: int) -> np.ndarray:
    """`perm_mask` of the official reader, entry by entry: 1 where i must not see j.

    `order` is the shuffled index of each part's tokens. Without cls and sep no token is functional.
    """
    length = len(order)
    hidden = np.zeros((length, length), int)
    for i, j in itertools.product(range(length), repeat=2):
        if i < reuse_len <= j:
            hidden[i, j] = 1
        elif (i < reuse_len) == (j < reuse_len):
            rev_i = order[i] if is_masked[i] else -1
            rev_j = order[j] if is_masked[j] else -1
            self_rev_i = rev_i if is_masked[i] else rev_i + 1
            hidden[i, j] = int(self_rev_i <= rev_j and is_masked[j])
    return hidden


@settings(deadline=None)
@given(length=st.integers(12, 40), reuse_len=st.integers(3, 37), seed=st.integers(0, 2**32))
def test_ranks_say_what_perm_mask_says(length, reuse_len, seed):
    reuse_len = min(reuse_len, length - 3)
    this = spec(length, plm.PLM(reuse_len=reuse_len, num_predict=min(6, 2 * reuse_len)))
    plm.OBJECTIVE.window_spec(this)
    row = plm.OBJECTIVE.example(np.random.default_rng(seed), window(length), this)
    is_masked = np.zeros(length, bool)
    is_masked[row["target_positions"]] = True
    # The order of tokens that are no target is not in the row, and must not matter: any will do.
    order = np.random.default_rng(seed + 1).permutation(length)
    order[is_masked] = row["rank"][is_masked]
    assert np.array_equal(hidden_by_definition(order, is_masked, reuse_len) == 0, visible(row))


def test_cut_is_the_order_itself():
    """Every token sees what comes before it in its part's order; the targets are the last."""
    this = spec(24, plm.PLM(targets="cut", num_predict=7, reuse_len=10))
    row = plm.OBJECTIVE.example(np.random.default_rng(0), window(24), this)
    sees = visible(row)
    for part, goal in ((slice(0, 10), 4), (slice(10, 24), 3)):
        num_seen = sees[part, part].sum(axis=1)
        assert sorted(num_seen) == list(range(len(num_seen)))
        targets = set(np.argsort(num_seen)[-goal:] + part.start)
        assert targets <= set(row["target_positions"].tolist())
    assert not sees[:10, 10:].any() and sees[10:, :10].all()


def test_targets_are_the_tokens_themselves_and_counts_are_official():
    for targets in ("ngram", "cut"):
        this = spec(512, plm.PLM(targets=targets), STARTS_WORD)
        assert plm.OBJECTIVE.window_spec(this)[:3] == (512, "stream", 256)
        text = window(512)
        row = plm.OBJECTIVE.example(np.random.default_rng(1), text, this)
        at = row["target_positions"]
        assert at.shape == (85,) and len(set(at.tolist())) == 85 and row["weights"].all()
        assert np.sum(at < 256) == 43
        assert np.array_equal(row["targets"], text.tokens[at])
        assert np.array_equal(row["tokens"], text.tokens)


def test_padding_is_never_a_target():
    this = spec(64, plm.PLM(num_predict=12))
    for num_text in (0, 3, 20, 40, 63):
        row = plm.OBJECTIVE.example(np.random.default_rng(2), window(64, num_text), this)
        real = row["weights"] > 0
        assert np.all(row["target_positions"][real] < max(num_text, 1))
        assert real.sum() == 6 * min(num_text, 32) // 32 + 6 * max(num_text - 32, 0) // 32
        assert np.array_equal(row["segments"], np.arange(64) < num_text)


@pytest.mark.slow
def test_every_order_of_the_targets_is_equally_likely():
    this, text, rng = spec(18, plm.PLM(num_predict=6)), window(18), np.random.default_rng(3)
    counts: dict[tuple[int, ...], int] = {}
    for _ in range(DRAWS):
        row = plm.OBJECTIVE.example(rng, text, this)
        order = tuple(np.argsort(row["rank"][row["target_positions"][:3]]).tolist())
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 6
    assert stats.chisquare(list(counts.values())).pvalue > 1e-3


def test_cut_draws_targets_uniformly():
    this, text = spec(40, plm.PLM(targets="cut", num_predict=12)), window(40)
    rng = np.random.default_rng(4)
    at = np.concatenate(
        [plm.OBJECTIVE.example(rng, text, this)["target_positions"] for _ in range(DRAWS // 4)]
    )
    assert stats.chisquare(np.bincount(at, minlength=40)).pvalue > 1e-3


def sample_mask_token_by_token(
    rng: np.random.Generator, starts: np.ndarray, goal: int, alpha: int = 6, beta: int = 1
) -> np.ndarray:
    """The procedure of the reference page, walked one token at a time."""
    length, mask, count, current = len(starts), np.zeros(len(starts), bool), 0, 0
    weights = 1 / np.arange(1, 6)
    while current < length and count < goal:
        n = min(rng.choice([1, 2, 3, 4, 5], p=weights / weights.sum()), goal - count)
        context = n * alpha // beta
        left = rng.integers(context)
        begin = current + left
        while begin < length and not starts[begin]:
            begin += 1
        if begin >= length:
            break
        # Tokens are counted, whether they begin words or not.
        end = begin
        while end < length and end - begin < n:
            end += 1
        if end >= length:
            break
        mask[begin:end] = True
        count += end - begin
        current = end + context - left
    while count < goal:
        i = rng.integers(length)
        if not mask[i]:
            mask[i] = True
            count += 1
    return mask


def run_lengths(mask: np.ndarray) -> np.ndarray:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(int), [0]])))
    return edges[1::2] - edges[::2]


@pytest.mark.parametrize("share_of_starts", tiers([1.0, 0.4], slow=[0.4]))
def test_ngrams_are_chosen_as_officially(share_of_starts):
    """The same distribution as the procedure walked token by token: places, runs, gaps before the first."""
    starts = np.random.default_rng(5).random(128) < share_of_starts
    goal, config = 22, plm.PLM()
    ours, theirs = np.random.default_rng(6), np.random.default_rng(7)
    a = [plm.ngram_targets(ours, starts, goal, config) for _ in range(DRAWS)]
    b = [sample_mask_token_by_token(theirs, starts, goal) for _ in range(DRAWS // 2)]
    assert all(mask.sum() == goal for mask in a)
    places = np.stack([np.sum(a, axis=0), np.sum(b, axis=0)])
    runs = np.stack([np.bincount(np.concatenate([run_lengths(m) for m in x]), minlength=40) for x in (a, b)])
    firsts = np.stack([np.bincount([np.argmax(m) for m in x], minlength=128) for x in (a, b)])
    for table in (places, runs, firsts):
        table = np.stack([_pooled(table[0], table.sum(axis=0)), _pooled(table[1], table.sum(axis=0))])
        assert stats.chi2_contingency(table).pvalue > 1e-3


def _pooled(counts: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Bins with under 30 counts in both samples together become one."""
    rare = total < 30
    return np.append(counts[~rare], counts[rare].sum() + 1)


def test_lengths_of_ngrams_go_by_one_over_n():
    """The first n-gram, in a text with room for all of them: 60/137, 30/137, 20/137, 15/137, 12/137."""
    rng, starts = np.random.default_rng(8), np.ones(400, bool)
    firsts = [run_lengths(plm.ngram_targets(rng, starts, 22, plm.PLM()))[0] for _ in range(DRAWS)]
    expected = np.array([60, 30, 20, 15, 12]) / 137 * DRAWS
    assert stats.chisquare(np.bincount(firsts, minlength=6)[1:], expected).pvalue > 1e-3


def test_ngrams_begin_words():
    """With room for all of them no single token is filled in, and no two n-grams touch."""
    starts, rng = np.arange(400) % 4 == 0, np.random.default_rng(9)
    for _ in range(200):
        mask = plm.ngram_targets(rng, starts, 22, plm.PLM())
        assert starts[np.flatnonzero(np.diff(np.append(0, mask.astype(int))) > 0)].all()


@pytest.mark.parametrize("backwards", [False, True])
def test_ngrams_begin_words_of_the_text_as_it_was(backwards):
    """Words of three tokens, in a row that reads either way; with room for all, each run begins a word."""
    starts = np.arange(VOCAB.size) % 3 == 0
    this = spec(400, plm.PLM(bi_data=True, num_predict=30), starts)
    text = window(400)._replace(tokens=(9 + np.arange(400) % 279).astype(np.int32))
    read = reversed_window(text) if backwards else text
    for seed in range(100):
        row = plm.OBJECTIVE.example(np.random.default_rng(seed), read, this)
        assert row["backwards"] == backwards and row["weights"].sum() == 30
        mask = np.zeros(400, bool)
        mask[row["target_positions"]] = True
        assert np.array_equal(row["targets"], read.tokens[row["target_positions"]])
        turn = slice(None, None, -1) if backwards else slice(None)
        for part in (slice(0, 200), slice(200, 400)):
            runs = np.flatnonzero(np.diff(np.append(0, mask[part][turn].astype(int))) > 0)
            assert len(runs) and starts[read.tokens[part][turn][runs]].all()


@pytest.mark.parametrize(
    "config, length, field",
    [
        (plm.PLM(reuse_len=64), 64, "objective.reuse_len = 64 must lie in 1..63"),
        (plm.PLM(num_predict=1), 64, "objective.num_predict = 1 must lie in 2..64"),
        (plm.PLM(num_predict=66), 64, "objective.num_predict = 66 must lie in 2..64"),
        (plm.PLM(num_predict=40, reuse_len=10), 64, "objective.num_predict = 40 must lie in 2..20"),
    ],
)
def test_parts_that_cannot_be_filled_are_errors(config, length, field):
    with pytest.raises(ConfigError, match=field):
        plm.OBJECTIVE.window_spec(spec(length, config))


@pytest.mark.parametrize(
    "config, field",
    [
        (plm.PLM(mask_alpha=1, mask_beta=2), "objective.mask_beta = 2"),
        (plm.PLM(mem_len=-1), "objective.mem_len = -1"),
    ],
)
def test_wrong_values_are_named(config, field):
    with pytest.raises(ConfigError, match=field):
        config.validate()
