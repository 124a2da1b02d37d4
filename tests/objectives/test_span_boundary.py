"""SpanBERT: the lengths and places of its spans, the edges that predict them, both losses."""

import collections

import jax
import numpy as np
import pytest
from scipy import stats

from tests.objectives.small import (
    ENCODER,
    VOCAB,
    at,
    batch_of,
    gelu,
    layer_norm,
    log_softmax,
    masked_losses,
    small,
    spec_of,
    text,
)
from tlx.base.errors import ConfigError
from tlx.data.window import Window
from tlx.models.transformer import Transformer
from tlx.objectives import span_boundary
from tlx.objectives.span_boundary import SpanBoundary

DRAWS = 20_000
STARTS_WORD = (np.arange(VOCAB.size) % 3 > 0) | VOCAB.special  # ids divisible by three continue a word


def test_lengths_are_geometric_renormalised_and_have_mean_3_797():
    drawn = span_boundary.span_lengths(np.random.default_rng(0), DRAWS, SpanBoundary())
    counts = np.bincount(drawn, minlength=11)[1:]
    share = 0.2 * 0.8 ** np.arange(10)
    assert np.dot(share / share.sum(), np.arange(1, 11)) == pytest.approx(3.797, abs=5e-4)
    assert stats.chisquare(counts, share / share.sum() * DRAWS).pvalue > 1e-3
    clipped = np.append(share[:9], 1 - share[:9].sum())  # min(G, 10): mean 4.463
    assert np.dot(clipped, np.arange(1, 11)) == pytest.approx(4.463, abs=5e-4)
    assert stats.chisquare(counts, clipped * DRAWS).pvalue < 1e-9


@pytest.mark.parametrize("tokens, count", [(127, 20), (1, 1), (20, 3), (510, 77), (0, 0)])
def test_the_budget_is_rounded_up(tokens, count):
    assert span_boundary.budget(tokens, SpanBoundary()) == count
    if tokens:
        this = spec_of("span_boundary", length=tokens + 2)
        row = span_boundary.OBJECTIVE.example(np.random.default_rng(0), text(tokens), this)
        assert row["weights"].sum() == count == len(row["weights"])


def literal_spans(rng: np.random.Generator, tokens: list[int], config: SpanBoundary, clip: bool):
    """The official loop in words, on a text of ordinary tokens: the hidden places."""
    begins = [i for i, token in enumerate(tokens) if i == 0 or STARTS_WORD[token]] + [len(tokens)]
    hidden: set[int] = set()
    weights = config.geometric_p * (1 - config.geometric_p) ** np.arange(config.max_words)
    while len(hidden) < span_boundary.budget(len(tokens), config):
        length = (
            min(int(rng.geometric(config.geometric_p)), config.max_words)
            if clip
            else int(rng.choice(config.max_words, p=weights / weights.sum())) + 1
        )
        anchor = int(rng.integers(len(tokens)))
        if anchor in hidden:
            continue
        word = max(i for i, begin in enumerate(begins) if begin <= anchor)
        for place in range(begins[word], begins[min(word + length, len(begins) - 1)]):
            if len(hidden) < span_boundary.budget(len(tokens), config):
                hidden.add(place)
    return tuple(sorted(hidden))


@pytest.mark.slow
def test_hidden_places_are_distributed_as_the_official_loop_has_them():
    config = SpanBoundary(masking_rate=0.4, max_words=3)
    this = spec_of("span_boundary", config, length=12, starts_word=STARTS_WORD)
    tokens = [10, 12, 11, 13, 15, 18, 14, 16, 17, 21]
    window = Window(np.array(tokens, np.int32), np.ones(10, np.int32), np.arange(10, dtype=np.int32))
    rng = np.random.default_rng(1)
    rows = [span_boundary.OBJECTIVE.example(rng, window, this) for _ in range(DRAWS // 2)]
    ours = collections.Counter(tuple((row["target_positions"] - 1).tolist()) for row in rows)
    for clip in (False, True):
        theirs = collections.Counter(literal_spans(rng, tokens, config, clip) for _ in range(DRAWS // 2))
        keys = [key for key in ours | theirs if ours[key] + theirs[key] >= 20]
        table = np.array([[counter[key] for key in keys] for counter in (ours, theirs)])
        assert (stats.chi2_contingency(table).pvalue > 1e-3) == (not clip)


@pytest.mark.slow
def test_one_draw_decides_a_span():
    this, rng = spec_of("span_boundary", length=66), np.random.default_rng(2)
    kinds = collections.Counter()
    for seed in range(3000):
        window = text(64, seed=seed, last=70)
        row = span_boundary.OBJECTIVE.example(rng, window, this)
        at_places = row["target_positions"]
        shown = row["tokens"][at_places]
        for span in np.split(np.arange(len(at_places)), np.flatnonzero(np.diff(at_places) > 1) + 1):
            masks = shown[span] == VOCAB.mask
            same = shown[span] == row["targets"][span]
            kind = "mask" if masks.all() else "same" if same.all() else "random"
            # A random token is mask, or the token itself, now and then.
            assert kind != "random" or np.mean(masks | same) < 0.7 or len(span) < 3
            kinds[kind, len(span) > 2] += 1
    long = np.array([kinds[kind, True] for kind in ("mask", "random", "same")])
    assert stats.chisquare(long, np.array([0.8, 0.1, 0.1]) * long.sum()).pvalue > 1e-3


def test_edges_by_hand():
    """Documents of 9 and 8 tokens; which spans have edges, which tokens have offsets."""
    this = spec_of("span_boundary", SpanBoundary(masking_rate=0.4, max_targets=2), length=19)
    segments = np.repeat([1, 2], [9, 8]).astype(np.int32)
    positions = np.r_[0:9, 0:8].astype(np.int32)
    seen = set()
    for seed in range(300):
        window = Window(text(17, seed=seed).tokens, segments, positions)
        row = span_boundary.OBJECTIVE.example(np.random.default_rng(seed), window, this)
        places = row["target_positions"].tolist()
        own = np.r_[1, segments, 2][:19]
        for index, place in enumerate(places):
            first, stop = place, place
            while first - 1 in places:
                first -= 1
            while stop in places:
                stop += 1
            crosses = own[first - 1] != own[stop]
            has_edges = first > 1 and stop < 18 and not crosses and place - first < 2
            assert row["edge_weights"][index] == has_edges
            seen.add(has_edges)
            if has_edges:
                edge = (row["left"][index], row["right"][index], row["offset"][index])
                assert edge == (first - 1, stop, place - first)
    assert seen == {True, False}


def test_special_tokens_are_neither_hidden_nor_crossed():
    this, rng = spec_of("span_boundary", SpanBoundary(masking_rate=0.5), length=26), np.random.default_rng(3)
    window = text(24)
    window.tokens[[5, 11, 23]] = VOCAB.eos
    for _ in range(300):
        row = span_boundary.OBJECTIVE.example(rng, window, this)
        real = row["weights"] > 0
        assert real.sum() == 11 and not VOCAB.special[row["targets"][real]].any()
        rebuilt = row["tokens"].copy()
        rebuilt[row["target_positions"][real]] = row["targets"][real]
        assert rebuilt.tolist() == [VOCAB.cls, *window.tokens, VOCAB.sep]


def test_losses_are_numpys_and_no_hidden_token_is_read():
    this = spec_of("span_boundary", SpanBoundary(masking_rate=0.3, max_targets=3, position_width=8))
    batch = batch_of(this, [text(22, seed=1), text(22, 15, seed=2)], seed=5)
    it = small(this, batch)
    terms, _ = it.forward(batch)
    hidden = np.asarray(Transformer(ENCODER).apply({"params": it.params["model"]}, batch))
    kernel = it.params["model"]["output"]["kernel"]
    losses = masked_losses(
        it.params["heads"]["mlm"], at(hidden, batch["target_positions"]), batch["targets"], kernel
    )
    np.testing.assert_allclose(terms["loss"].sum, (losses * batch["weights"]).sum(), rtol=1e-5)
    head = jax.tree.map(lambda x: np.asarray(x, np.float64), it.params["heads"]["span_boundary"])
    x = np.concatenate(
        [at(hidden, batch["left"]), at(hidden, batch["right"]), head["positions"][batch["offset"]]], axis=-1
    )
    for number in (1, 2):
        x = gelu(x @ head[f"dense_{number}"]["kernel"] + head[f"dense_{number}"]["bias"])
        x = layer_norm(x, head[f"norm_{number}"])
    log_p = log_softmax((x @ np.asarray(kernel, np.float64).T + head["bias"])[..., : VOCAB.size])
    scores = np.take_along_axis(log_p, batch["targets"][..., None], axis=-1)[..., 0]
    weights = batch["edge_weights"]
    assert 0 < weights.sum() < batch["weights"].sum()
    np.testing.assert_allclose(terms["boundary_loss"].sum, -(scores * weights).sum(), rtol=1e-5)
    assert terms["boundary_loss"].weight == weights.sum() and terms["boundary_loss"].loss_weight == 1

    def loss(table):
        model = {**it.params["model"], "embedding": {"table": table}}
        found, _ = it.module.apply({"params": {**it.params, "model": model}}, batch)
        return found["loss"].sum + found["boundary_loss"].sum

    rows = np.linalg.norm(jax.jit(jax.grad(loss))(it.params["model"]["embedding"]["table"]), axis=1)
    hidden_ids = np.setdiff1d(batch["targets"][batch["weights"] > 0], batch["tokens"])
    visible = np.setdiff1d(batch["tokens"], [VOCAB.pad])
    assert len(hidden_ids) > 3 and not rows[hidden_ids].any() and rows[visible].all()


@pytest.mark.parametrize(
    "config, field",
    [
        (SpanBoundary(masking_rate=0.0), "objective.masking_rate = 0.0"),
        (SpanBoundary(geometric_p=1.0), "objective.geometric_p = 1.0"),
        (SpanBoundary(max_words=0), "objective.max_words = 0"),
        (SpanBoundary(random_token_fraction=0.5), "objective.random_token_fraction = 0.5"),
    ],
)
def test_wrong_values_are_named(config, field):
    with pytest.raises(ConfigError, match=field):
        config.validate()
