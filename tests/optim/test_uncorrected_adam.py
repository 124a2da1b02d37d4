"""Adam and LAMB without bias correction against BERT's and ALBERT's formulas in numpy."""

import numpy as np
import pytest

from tests.optim import trees
from tlx.base import tree
from tlx.base.errors import ConfigError
from tlx.optim import OptimizerConfig, make_optimizer

RATE, BETA1, BETA2, EPS, DECAY = 0.01, 0.9, 0.999, 1e-6, 0.01


def config_of(name, **changes):
    values = {"beta1": BETA1, "beta2": BETA2, "eps": EPS, "weight_decay": DECAY, "bias_correction": False}
    return OptimizerConfig(name=name, **values | changes)


def numpy_updates(name, params, gradients):
    """Updates of AdamWeightDecayOptimizer (optimization.py) or LAMBOptimizer (lamb_optimizer.py), layers apart."""
    params = {path: np.array(value, np.float64) for path, value in params.items()}
    first = {path: np.zeros_like(value) for path, value in params.items()}
    second = {path: np.zeros_like(value) for path, value in params.items()}
    found = []
    for grads in gradients:
        updates = {}
        for path, value in params.items():
            first[path] = BETA1 * first[path] + (1 - BETA1) * grads[path]
            second[path] = BETA2 * second[path] + (1 - BETA2) * np.square(grads[path])
            update = first[path] / (np.sqrt(second[path]) + EPS)
            is_matrix = value.ndim >= 2 and not path.endswith(("bias", "scale"))
            if is_matrix:
                update = update + DECAY * value
            ratio = 1.0
            if name == "lamb" and is_matrix:
                ratio = np.linalg.norm(value) / np.linalg.norm(update)
            updates[path] = -RATE * ratio * update
            params[path] = value + updates[path]
        found.append(updates)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adamw", "lamb"])
def test_updates_are_those_of_the_papers_own_code(name):
    abstract = trees.abstract(stacked=False)
    params = trees.apart(trees.values(trees.abstract(), seed=0))
    gradients = [trees.apart(trees.values(trees.abstract(), seed=step)) for step in (1, 2, 3)]
    optimizer = make_optimizer(config_of(name), lambda count: RATE, abstract)
    state = optimizer.init(params)
    expected = numpy_updates(name, tree.flatten(params), [tree.flatten(one) for one in gradients])
    for grads, wanted in zip(gradients, expected, strict=True):
        updates, state = optimizer.update(grads, state, params)
        params = tree.unflatten(
            {path: value + tree.flatten(updates)[path] for path, value in tree.flatten(params).items()}
        )
        for path, update in tree.flatten(updates).items():
            np.testing.assert_allclose(update, wanted[path], rtol=2e-4, atol=1e-8, err_msg=path)


@pytest.mark.slow
def test_the_first_update_is_larger_than_the_corrected_one():
    """By (1 - beta1) / sqrt(1 - beta2), 3.16."""
    params = trees.values(trees.abstract(), seed=0)
    grads = trees.values(trees.abstract(), seed=1)
    found = []
    for corrected in (False, True):
        config = config_of("adamw", weight_decay=0.0, eps=1e-20, bias_correction=corrected)
        optimizer = make_optimizer(config, lambda count: RATE, trees.abstract())
        found.append(tree.flatten(optimizer.update(grads, optimizer.init(params), params)[0]))
    for path, update in found[0].items():
        np.testing.assert_allclose(update, found[1][path] * 0.1 / np.sqrt(0.001), rtol=1e-3)


def test_optimizers_without_the_correction_refuse_the_key():
    with pytest.raises(
        ConfigError, match="bias_correction = False needs the optimizer adamw or lamb or muon"
    ):
        config_of("adafactor").validate()
