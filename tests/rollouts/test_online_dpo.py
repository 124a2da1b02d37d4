"""Online preference optimisation: which answers are compared, and the loss of the pairs."""

import jax
import numpy as np
import pytest

from tests.rollouts import tiny
from tlx.base.errors import ConfigError
from tlx.rollouts import TABLE
from tlx.rollouts.online_dpo import OnlineDPO, best_against_worst
from tlx.training.step import merge_params

CONFIG = {"beta": 0.2}
REWARDS = np.array([[1.0, 0.0, 0.5], [0.2, 0.2, 0.2], [0.0, 2.0, -1.0], [0.0, 0.0, 1.0]], np.float32)


def test_the_best_answer_is_compared_with_the_worst():
    np.testing.assert_array_equal(
        best_against_worst(REWARDS), [[1, -1, 0], [0, 0, 0], [0, 1, -1], [-1, 0, 1]]
    )


def scored():
    """Sampled answers with rewards, and the batch of an update."""
    batch = tiny.sampled("online_dpo", **CONFIG)[0]
    batch = {**batch, "reward": REWARDS}
    spec = tiny.spec_of("online_dpo", **CONFIG)
    return batch | TABLE.load("online_dpo").learned(spec.config, batch, {}).arrays


def terms_of(batch, params, **config):
    module = tiny.module_of("online_dpo", **CONFIG, **config)
    frozen = {"reference": jax.tree.map(lambda leaf: 0.8 * leaf, tiny.params_of())}
    return jax.jit(lambda *trees: module.apply({"params": merge_params(*trees)}, batch)[0])(params, frozen)


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["dpo", "ipo_sum"])
def test_the_loss_is_numpys(loss):
    batch = scored()
    terms = terms_of(batch, tiny.params_of(), loss=loss)
    # The policy is the one that sampled: its log-probabilities stand in the batch.
    ratio = np.asarray((batch["old_log_probs"] - batch["reference_log_probs"]) * batch["weights"], np.float64)
    s = ratio.sum(-1)
    h = np.array([s[0, 0] - s[0, 1], s[2, 1] - s[2, 2], s[3, 2] - s[3, 0]])
    values = {"dpo": np.log1p(np.exp(-0.2 * h)), "ipo_sum": np.square(h - 1 / 0.4)}[loss]
    np.testing.assert_allclose(terms["loss"].sum, values.sum(), rtol=1e-4)
    assert float(terms["loss"].weight) == 3  # equal rewards make no pair
    np.testing.assert_allclose(terms["margin"].sum, 0.2 * h.sum(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(terms["kl"].sum, s.sum(), rtol=1e-4, atol=1e-5)
    assert float(terms["accuracy"].sum) == (h > 0).sum()


@pytest.mark.slow
def test_a_policy_that_is_its_reference_has_the_loss_ln_2():
    batch = scored()
    module = tiny.module_of("online_dpo", **CONFIG)
    params = tiny.params_of()
    batch = batch | {"reference_log_probs": batch["old_log_probs"]}
    terms = jax.jit(lambda p: module.apply({"params": p}, batch)[0])(params)
    np.testing.assert_allclose(terms["loss"].sum / terms["loss"].weight, np.log(2), rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "simpo"}, "objective.loss = 'simpo'"),
        ({"beta": 0.0}, "objective.beta = 0.0 must be above 0"),
        ({"num_answers": 1}, "objective.num_answers = 1 must be 2 or more"),
    ],
)
def test_wrong_values_are_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        OnlineDPO(**changes).validate()
