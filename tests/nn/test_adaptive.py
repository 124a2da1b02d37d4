"""A vocabulary in clusters: probabilities that sum to one and are the formula's, an input from its tables."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.objectives.small import log_softmax
from tests.tiers import tiers
from tlx.nn.adaptive import AdaptiveOutput, ClusterTables, bounds
from tlx.nn.embed import logits
from tlx.nn.losses import LossConfig, cross_entropy
from tlx.parallel import unbox

WIDTH, CUTOFFS, VOCAB, PADDED = 8, (5, 12), 27, 32
KINDS = [(1, True), (2, True), (2, False)]


def made(divisor, tied, bias=True):
    """(input's parameters, output's, a function of both and of hidden states to an unembedding)."""
    tables = ClusterTables(PADDED, WIDTH, CUTOFFS, divisor, 1.0, 1.0, "float32", "float32")
    output = AdaptiveOutput(PADDED, VOCAB, WIDTH, CUTOFFS, divisor, tied, bias, 1.0, "float32", "float32")
    ids = jnp.zeros((1, 3), jnp.int32)
    shapes = unbox(jax.eval_shape(tables.init, jax.random.key(0), ids)["params"])
    rng = np.random.default_rng(3)
    draw = lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32)  # noqa: E731
    inputs = jax.tree.map(draw, shapes)
    clusters = tables.bind({"params": inputs}).table
    shapes = unbox(jax.eval_shape(output.init, jax.random.key(0), clusters)["params"])
    outputs = jax.tree.map(draw, shapes)
    return tables, inputs, outputs, output.bind({"params": outputs})(clusters)


def dense(hidden, inputs, outputs, divisor, tied):
    """log p of every id by Grave et al.'s formula, float64: log p(cluster) + log p(id | cluster)."""
    h, whole = np.asarray(hidden, np.float64), inputs if tied else outputs["own"]
    parts = []
    for i, (first, last) in enumerate(bounds(CUTOFFS, PADDED)):
        if divisor == 1:
            narrowed, table = h, whole["table"][first:last]
        else:
            own = i == 0 and tied
            narrowed = h @ np.asarray(outputs["projection"] if own else whole[f"projection_{i}"]).T
            table = whole[f"table_{i}"]
        bias = outputs["bias"][first:last] if "bias" in outputs else 0
        parts.append((narrowed, narrowed @ np.asarray(table).T + bias))
    gates = parts[0][0] @ np.asarray(outputs["gates"]).T + outputs["gate_bias"]
    head = log_softmax(np.concatenate([parts[0][1], gates], axis=-1))
    ids = CUTOFFS[0]
    found = [head[..., :ids]]
    for i, (_, y) in enumerate(parts[1:]):
        first, last = bounds(CUTOFFS, VOCAB)[i + 1]
        found.append(head[..., ids + i, None] + log_softmax(y[..., : last - first]))
    return np.concatenate(found, axis=-1)


@pytest.mark.parametrize(("divisor", "tied"), KINDS)
@pytest.mark.parametrize("bias", [True, False])
def test_probabilities_sum_to_one_and_are_the_formulas(divisor, tied, bias):
    _, inputs, outputs, unembedding = made(divisor, tied, bias)
    assert unembedding.num_rows == PADDED
    hidden = jax.random.normal(jax.random.key(1), (2, 6, WIDTH))
    found = np.asarray(jax.jit(lambda h: logits(h, unembedding))(hidden))
    assert found.shape == (2, 6, PADDED) and found[..., VOCAB:].max() < -1e8
    np.testing.assert_allclose(np.exp(found[..., :VOCAB]).sum(-1), 1, rtol=1e-5)
    np.testing.assert_allclose(
        found[..., :VOCAB], dense(hidden, inputs, outputs, divisor, tied), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(("divisor", "tied"), KINDS)
@pytest.mark.parametrize(
    "config",
    tiers(
        [LossConfig(z_loss=0.5), LossConfig(label_smoothing=0.2, chunk=4)],
        quick=[LossConfig(label_smoothing=0.2, chunk=4)],
    ),
)
def test_the_loss_is_the_cross_entropy_of_these_probabilities(divisor, tied, config):
    _, inputs, outputs, unembedding = made(divisor, tied)
    keys = jax.random.split(jax.random.key(2), 3)
    hidden = jax.random.normal(keys[0], (2, 10, WIDTH))
    targets = jax.random.randint(keys[1], (2, 10), 0, VOCAB)
    weights = jax.random.randint(keys[2], (2, 10), 0, 2).astype(jnp.float32)
    scores = dense(hidden, inputs, outputs, divisor, tied)
    targets = jnp.where(jnp.arange(10) < 4, scores.argmax(-1), targets)  # some that are hit
    terms = jax.jit(lambda h: cross_entropy(h, unembedding, targets, weights, config))(hidden)
    target = np.take_along_axis(scores, np.asarray(targets)[..., None], axis=-1)[..., 0]
    share = config.label_smoothing
    expected = -((1 - share) * target + share * scores.mean(-1))
    np.testing.assert_allclose(terms["loss"].sum, (expected * weights).sum(), rtol=1e-5)
    hits = (scores.argmax(-1) == targets) * weights
    assert 0 < hits.sum() == terms["accuracy"].sum
    if config.z_loss:  # of the first softmax: what makes log-probabilities of the frequent ids' logits
        first = (
            np.asarray(hidden, np.float64) @ np.asarray(unembedding.clusters[0].projection).T
            if divisor > 1
            else np.asarray(hidden, np.float64)
        )
        logit = first @ np.asarray(unembedding.clusters[0].table)[0] + outputs["bias"][0]
        log_z = logit - scores[..., 0]
        np.testing.assert_allclose(terms["z_loss"].sum, (log_z**2 * weights).sum(), rtol=1e-5)


@pytest.mark.parametrize("divisor", [1, 2])
def test_every_id_has_its_clusters_vector(divisor):
    tables, inputs, *_ = made(divisor, True)
    ids = jnp.arange(PADDED).reshape(2, -1)
    found = np.asarray(jax.jit(lambda p: tables.apply({"params": p}, ids))(inputs)).reshape(PADDED, WIDTH)
    if divisor == 1:
        np.testing.assert_array_equal(found, inputs["table"])
        return
    for i, (first, last) in enumerate(bounds(CUTOFFS, PADDED)):
        expected = np.asarray(inputs[f"table_{i}"]) @ np.asarray(inputs[f"projection_{i}"])
        np.testing.assert_allclose(found[first:last], expected, rtol=1e-5, atol=1e-6)
    assert inputs["table_2"].shape == (20, 2)
