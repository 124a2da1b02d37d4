"""Cross-entropy against optax, and in pieces against the whole."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tlx.base.errors import ConfigError
from tlx.nn.embed import Unembedding, logits
from tlx.nn.losses import LossConfig, cross_entropy

pytestmark = pytest.mark.jax_versions


def problem(padded=32, vocab=27, bias=True):
    keys = jax.random.split(jax.random.key(0), 5)
    hidden = jax.random.normal(keys[0], (3, 10, 8))
    kernel = jax.random.normal(keys[1], (padded, 8))
    unembedding = Unembedding(kernel, jax.random.normal(keys[2], (padded,)) if bias else None, 0.5, vocab)
    targets = jax.random.randint(keys[3], (3, 10), 0, vocab)
    weights = jax.random.randint(keys[4], (3, 10), 0, 2).astype(jnp.float32)
    return hidden, unembedding, targets, weights


def test_equals_optax_on_the_unpadded_vocabulary():
    hidden, unembedding, targets, weights = problem()
    plain = (0.5 * hidden @ unembedding.kernel.T + unembedding.bias)[..., :27]
    terms = cross_entropy(hidden, unembedding, targets, weights, LossConfig(z_loss=1e-2))
    expected = optax.softmax_cross_entropy_with_integer_labels(plain, targets) * weights
    np.testing.assert_allclose(terms["loss"].sum, expected.sum(), rtol=1e-6)
    np.testing.assert_allclose(terms["loss"].weight, weights.sum())
    log_z = jax.nn.logsumexp(plain, -1)
    np.testing.assert_allclose(terms["z_loss"].sum, (log_z**2 * weights).sum(), rtol=1e-6)
    assert terms["z_loss"].loss_weight == 1e-2 and terms["accuracy"].loss_weight == 0
    hits = (plain.argmax(-1) == targets) * weights
    np.testing.assert_allclose(terms["accuracy"].sum, hits.sum())


def test_label_smoothing_spreads_over_the_unpadded_vocabulary():
    hidden, unembedding, targets, weights = problem()
    plain = logits(hidden, unembedding)[..., :27]
    smooth = optax.smooth_labels(jax.nn.one_hot(targets, 27), 0.1)
    expected = (optax.softmax_cross_entropy(plain, smooth) * weights).sum()
    terms = cross_entropy(hidden, unembedding, targets, weights, LossConfig(label_smoothing=0.1))
    np.testing.assert_allclose(terms["loss"].sum, expected, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("chunk", [1, 3, 5, 10])
def test_pieces_equal_the_whole(chunk):
    hidden, unembedding, targets, weights = problem()

    def total(hidden, kernel, chunk):
        cfg = LossConfig(z_loss=1e-3, label_smoothing=0.1, chunk=chunk)
        terms = cross_entropy(hidden, unembedding._replace(kernel=kernel), targets, weights, cfg)
        return sum(term.loss_weight * term.sum for term in terms.values())

    both = jax.value_and_grad(total, (0, 1))
    whole = both(hidden, unembedding.kernel, 0)
    pieces = both(hidden, unembedding.kernel, chunk)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), whole, pieces)


def test_long_rows_never_build_all_logits():
    hidden = jax.ShapeDtypeStruct((8, 1024, 16), jnp.float32)
    kernel = jax.ShapeDtypeStruct((8192, 16), jnp.float32)
    ids = jax.ShapeDtypeStruct((8, 1024), jnp.int32)

    def loss(hidden, kernel, targets, weights):
        return cross_entropy(hidden, Unembedding(kernel, None, 1.0, 8192), targets, weights, LossConfig())[
            "loss"
        ].sum

    compiled = jax.jit(jax.grad(loss, (0, 1))).lower(hidden, kernel, ids, ids).compile()
    all_logits = 8 * 1024 * 8192 * 4
    assert compiled.memory_analysis().temp_size_in_bytes < all_logits / 2


def test_bad_values_are_named():
    with pytest.raises(ConfigError, match="label_smoothing = 1.5"):
        LossConfig(label_smoothing=1.5).validate()
