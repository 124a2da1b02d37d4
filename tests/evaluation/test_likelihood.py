"""Evaluation over a pass: weighted means whatever the batches, and bits per byte of the targets' text."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tlx.base.errors import DataError
from tlx.base.term import Term
from tlx.evaluation.likelihood import evaluate, make_scorer
from tlx.models.config import ModelConfig
from tlx.nn.losses import LossConfig
from tlx.objectives.shared.base import ObjectiveModule

V = 7
NUM_BYTES_V = np.array([0, 1, 2, 3, 4, 5, 6])


class Table(ObjectiveModule):
    """A unigram model with a carry that counts the batches."""

    config: None = None
    model: ModelConfig = ModelConfig()

    @nn.compact
    def __call__(self, batch, carry=None, keys=None):
        log_prob_V = jax.nn.log_softmax(self.param("table", nn.initializers.normal(1.0), (V,)))
        smooth = self.loss.label_smoothing
        nats = -((1 - smooth) * log_prob_V[batch["targets"]] + smooth * log_prob_V.mean()) * batch["weights"]
        terms = {"loss": Term(nats.sum(), batch["weights"].sum(), 1.0)}
        return terms, (0 if carry is None else carry) + 1


@pytest.fixture
def scored():
    rng = np.random.default_rng(0)
    batch = {"targets": rng.integers(V, size=(6, 5)), "weights": rng.integers(2, size=(6, 5)).astype("f4")}
    batch["weights"][4:] = 0  # the rows that fill the last batch
    module = Table(loss=LossConfig(label_smoothing=0.3))
    params = module.init(jax.random.key(0), batch)["params"]
    return batch, params, make_scorer(module, NUM_BYTES_V)


def test_figures(scored):
    batch, params, scorer = scored
    figures = evaluate(scorer, params, [batch])
    log_prob = np.asarray(jax.nn.log_softmax(params["table"]))
    counted = batch["targets"][batch["weights"] > 0]
    assert figures["loss"] == pytest.approx(-log_prob[counted].mean(), rel=1e-5)
    bits = -log_prob[counted].sum() / math.log(2)
    assert figures["bits_per_byte"] == pytest.approx(bits / NUM_BYTES_V[counted].sum(), rel=1e-5)
    assert (figures["targets"], figures["bytes"]) == (len(counted), NUM_BYTES_V[counted].sum())


def test_figures_do_not_depend_on_the_batches(scored):
    batch, params, scorer = scored
    pieces = [{key: value[i : i + 2] for key, value in batch.items()} for i in range(0, 6, 2)]
    whole, cut = evaluate(scorer, params, [batch]), evaluate(scorer, params, pieces, carry=jnp.int32(0))
    assert cut == pytest.approx(whole, rel=1e-6)


def test_an_empty_split_is_an_error(scored):
    with pytest.raises(DataError, match="no batches"):
        evaluate(scored[2], scored[1], [])
