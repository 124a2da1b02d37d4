"""Sampling: what may be drawn, how often, and from whose key."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tlx.base.errors import ConfigError
from tlx.decode.sampling import Sampling, penalised, sample, sampling_arrays

pytestmark = pytest.mark.jax_versions

LOGITS_V = np.log(np.array([0.1, 0.4, 0.05, 0.2, 0.25], np.float32))


def draws(sampling: Sampling, count: int = 4000) -> np.ndarray:
    """Share of each token among `count` draws."""
    keys = jax.random.split(jax.random.key(1), count)
    logits = jnp.broadcast_to(LOGITS_V, (count, len(LOGITS_V)))
    tokens = sample(logits, keys, sampling_arrays(sampling), sampling.greedy, sampling.truncated)
    return np.bincount(np.asarray(tokens), minlength=len(LOGITS_V)) / count


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(temperature=0), [0, 1, 0, 0, 0]),
        (Sampling(), [0.1, 0.4, 0.05, 0.2, 0.25]),
        (Sampling(temperature=0.5), np.exp(2 * LOGITS_V) / np.exp(2 * LOGITS_V).sum()),
        (Sampling(top_k=2), [0, 0.4 / 0.65, 0, 0, 0.25 / 0.65]),
        (Sampling(top_k=1), [0, 1, 0, 0, 0]),
        (Sampling(top_p=0.6), [0, 0.4 / 0.65, 0, 0, 0.25 / 0.65]),
        (Sampling(top_p=1e-6), [0, 1, 0, 0, 0]),
        # top-p acts on what top-k has left: .4/.85 and .25/.85 reach .7, .2/.85 is not needed.
        (Sampling(top_k=3, top_p=0.7), [0, 0.4 / 0.65, 0, 0, 0.25 / 0.65]),
        # min-p asks for half of .4 and .6 of it, after the temperature: .2^2 is less than .6 of .4^2.
        (Sampling(min_p=0.49), [0, 0.4 / 0.85, 0, 0.2 / 0.85, 0.25 / 0.85]),
        (Sampling(min_p=0.6), [0, 0.4 / 0.65, 0, 0, 0.25 / 0.65]),
        (Sampling(min_p=0.6, temperature=0.5), [0, 1, 0, 0, 0]),
    ],
)
def test_shares(sampling, expected):
    np.testing.assert_allclose(draws(sampling), expected, atol=0.03)
    assert (draws(sampling)[np.asarray(expected) == 0] == 0).all()


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(top_k=3)])
def test_a_row_does_not_depend_on_the_batch(sampling):
    keys = jax.random.split(jax.random.key(0), 8)
    logits = jax.random.normal(jax.random.key(2), (8, 50))
    arguments = sampling_arrays(sampling), sampling.greedy, sampling.truncated
    together = sample(logits, keys, *arguments)
    alone = [sample(logits[i : i + 1], keys[i : i + 1], *arguments)[0] for i in range(8)]
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize(
    "bad",
    [{"temperature": -1.0}, {"temperature": float("nan")}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.5}]
    + [{"min_p": 1.5}, {"repetition_penalty": 0.0}, {"temperature": 1e-45}, {"repetition_penalty": 1e300}],
)
def test_bad_values_are_named(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        Sampling(**bad).validate()


@pytest.mark.parametrize(
    ("seen", "penalty", "expected"),
    [([], 2.0, [1, -1, 3]), ([0, 1], 2.0, [0.5, -2, 3]), ([2], 0.5, [1, -1, 6])],
)
def test_what_was_said_is_penalised_on_both_sides_of_zero(seen, penalty, expected):
    """Transformers' rule: over the penalty where positive, times it where negative."""
    seen_BV = np.isin(np.arange(3), seen)[None]
    found = penalised(jnp.array([[1.0, -1, 3]]), seen_BV, jnp.float32(penalty))
    np.testing.assert_allclose(found[0], expected)
