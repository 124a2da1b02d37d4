"""The sampled softmax: that of all ids where all are drawn, and counts that are those of the draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.objectives.small import log_softmax
from tlx.nn.embed import Unembedding, logits
from tlx.nn.sampled import log_expected_counts, log_probabilities, sampled_losses

VOCAB, PADDED, WIDTH = 27, 32, 8


def problem():
    keys = jax.random.split(jax.random.key(0), 4)
    unembedding = Unembedding(
        jax.random.normal(keys[0], (PADDED, WIDTH)), jax.random.normal(keys[1], (PADDED,)), 1.0, VOCAB
    )
    hidden = jax.random.normal(keys[2], (2, 6, WIDTH))
    return hidden, unembedding, jax.random.randint(keys[3], (2, 6), 0, VOCAB)


def run(num_sampled, seed=5):
    hidden, unembedding, targets = problem()
    keys = jax.random.split(jax.random.key(seed), 2)
    losses = jax.jit(lambda h: sampled_losses(h, unembedding, targets, keys, num_sampled))(hidden)
    scores = np.asarray(logits(hidden, unembedding))[..., :VOCAB].astype(np.float64)
    return np.asarray(losses), scores, np.asarray(targets), keys


@pytest.mark.parametrize("num_sampled", [VOCAB, 1000])
def test_all_ids_drawn_are_the_whole_softmax(num_sampled):
    losses, scores, targets, _ = run(num_sampled)
    expected = -np.take_along_axis(log_softmax(scores), targets[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(losses, expected, rtol=1e-5)


def test_a_sample_is_the_formula_over_what_was_drawn():
    losses, scores, targets, keys = run(9)
    counts = log_expected_counts(VOCAB, 9).astype(np.float64)
    for row, key in enumerate(keys):
        noise = log_probabilities(VOCAB).astype(np.float32) + jax.random.gumbel(key, (VOCAB,))
        drawn = np.argsort(-np.asarray(noise))[:9]
        for place, target in enumerate(targets[row]):
            ids = [target, *(k for k in drawn if k != target)]
            corrected = scores[row, place, ids] - counts[ids]
            assert losses[row, place] == pytest.approx(-log_softmax(corrected)[0], rel=1e-5)
    assert any(target in set(drawn) for target in targets[row])


def test_expected_counts_are_those_of_draws_without_replacement():
    """2,000 samples of 9 of 27: within five standard errors and the .02 of a fixed number of draws."""
    counts = np.exp(log_expected_counts(VOCAB, 9))
    assert counts.sum() == pytest.approx(9, rel=1e-4) and np.all(np.diff(counts) < 0)
    noise = log_probabilities(VOCAB) + np.random.default_rng(0).gumbel(size=(2000, VOCAB))
    drawn = np.argsort(-noise, axis=1)[:, :9]
    found = np.bincount(drawn.ravel(), minlength=VOCAB) / 2000
    assert np.abs(found - counts).max() < 5 * np.sqrt(0.25 / 2000) + 0.02


def test_gradients_reach_what_was_drawn_alone():
    hidden, unembedding, targets = problem()
    keys = jax.random.split(jax.random.key(5), 2)

    def loss(kernel):
        return sampled_losses(hidden, unembedding._replace(kernel=kernel), targets, keys, 4).sum()

    reached = np.flatnonzero(np.abs(jax.jit(jax.grad(loss))(unembedding.kernel)).max(axis=1))
    drawn = {
        int(k)
        for key in keys
        for k in np.argsort(-(log_probabilities(VOCAB) + np.asarray(jax.random.gumbel(key, (VOCAB,)))))[:4]
    }
    assert set(reached.tolist()) == drawn | set(np.asarray(targets).ravel().tolist())
    assert jnp.isfinite(loss(unembedding.kernel))
