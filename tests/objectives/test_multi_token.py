"""Multi-token prediction: which token each head predicts, and from what."""

import jax
import numpy as np
import pytest

from tests.objectives.cases import CONFIGS, MODELS, VOCAB, batch_of, compiled, log_softmax
from tlx.models.transformer import Transformer
from tlx.objectives import multi_token

DOCUMENTS = [[24], [13, 9]]


def later(batch, k):
    """Target k positions further, and its weight, token by token in Python."""
    targets = np.zeros_like(batch["targets"])
    weights = np.zeros_like(batch["weights"])
    rows, length = targets.shape
    for row in range(rows):
        for place in range(length - k):
            if batch["segments"][row, place] == batch["segments"][row, place + k]:
                targets[row, place] = batch["targets"][row, place + k]
                weights[row, place] = batch["weights"][row, place + k]
    return targets, weights


@pytest.mark.parametrize("k", [1, 4])
def test_targets_are_the_later_ones_of_the_document(k):
    batch = batch_of("multi_token", DOCUMENTS)
    targets, weights = map(np.asarray, multi_token.future_targets(batch, k))
    expected, expected_weights = later(batch, k)
    np.testing.assert_array_equal(weights, expected_weights)
    np.testing.assert_array_equal(targets[weights > 0], expected[weights > 0])
    # Of each document all targets but the first k.
    assert weights.sum() == batch["weights"].sum() - 3 * k


@pytest.mark.slow
def test_losses_are_numpys():
    """Medusa's head by its formula: (h + SiLU(h W + b)) times its own kernel, the model's and a difference."""
    batch = batch_of("multi_token", DOCUMENTS)
    module, params, forward, *_ = compiled("multi_token")
    terms, logits, _ = forward(batch)
    model = params["model"]
    hidden = np.asarray(Transformer(MODELS["multi_token"]).apply({"params": model}, batch), np.float64)
    future = np.asarray(
        jax.jit(lambda hidden: module.apply({"params": params}, hidden, method="future_logits"))(
            hidden.astype(np.float32)
        )
    )
    kernel = np.asarray(model["output"]["kernel"], np.float64)
    plain = (hidden @ kernel.T)[..., : VOCAB.size]
    np.testing.assert_allclose(logits, plain, atol=1e-4)
    for k in range(1, CONFIGS["multi_token"].num_heads + 1):
        head = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params["heads"][f"multi_token_{k}"])
        x = hidden @ head["dense"]["kernel"] + head["dense"]["bias"]
        x = hidden + x / (1 + np.exp(-x))
        expected = (x @ (kernel + head["difference"]).T)[..., : VOCAB.size]
        np.testing.assert_allclose(future[:, :, k - 1], expected, atol=2e-4)
        targets, weights = later(batch, k)
        losses = -np.take_along_axis(log_softmax(expected), targets[..., None], axis=-1)[..., 0]
        np.testing.assert_allclose(terms[f"loss_{k}"].sum, (losses * weights).sum(), rtol=1e-5)
        assert float(terms[f"loss_{k}"].loss_weight) == pytest.approx(0.8**k)
