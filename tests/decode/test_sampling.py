"""Sampling: what may be drawn, how often, and from whose key."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tlx.base.errors import ConfigError
from tlx.decode.sampling import Sampling, knobs, sample

LOGITS_V = np.log(np.array([0.1, 0.4, 0.05, 0.2, 0.25], np.float32))


def draws(sampling: Sampling, count: int = 4000) -> np.ndarray:
    """Share of each token among `count` draws."""
    keys = jax.random.split(jax.random.key(1), count)
    logits = jnp.broadcast_to(LOGITS_V, (count, len(LOGITS_V)))
    tokens = sample(logits, keys, knobs(sampling), sampling.greedy, sampling.truncated)
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
    ],
)
def test_shares(sampling, expected):
    np.testing.assert_allclose(draws(sampling), expected, atol=0.03)
    assert (draws(sampling)[np.asarray(expected) == 0] == 0).all()


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(top_k=3)])
def test_a_row_does_not_depend_on_the_batch(sampling):
    keys = jax.random.split(jax.random.key(0), 8)
    logits = jax.random.normal(jax.random.key(2), (8, 50))
    arguments = knobs(sampling), sampling.greedy, sampling.truncated
    together = sample(logits, keys, *arguments)
    alone = [sample(logits[i : i + 1], keys[i : i + 1], *arguments)[0] for i in range(8)]
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize(
    "bad",
    [{"temperature": -1.0}, {"temperature": float("nan")}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.5}],
)
def test_bad_values_are_named(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        Sampling(**bad).validate()
