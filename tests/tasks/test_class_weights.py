"""Weights of classes: the losses are PyTorch's, "balanced" is scikit-learn's."""

import numpy as np
import pytest

from tests.tasks import small
from tlx.base.errors import ConfigError
from tlx.run.config import base_config, parse_config
from tlx.tasks import TABLE
from tlx.tasks.classification import Classification, class_terms
from tlx.tasks.shared.class_weights import balanced_set_weights, balanced_weights, weighted_cross_entropy
from tlx.tasks.token_classification import TokenClassification

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(12, 3)).astype(np.float32)
LABELS = RNG.integers(3, size=12).astype(np.int32)
WEIGHTS = (0.2, 3.0, 1.5)


def mean(term):
    return float(term.sum / term.weight)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("class_weights", [(), WEIGHTS])
def test_the_loss_is_that_of_torch(smoothing, class_weights):
    torch = pytest.importorskip("torch")
    weight = torch.tensor(class_weights) if class_weights else None
    judge = torch.nn.functional.cross_entropy(
        torch.tensor(LOGITS), torch.tensor(LABELS).long(), weight, label_smoothing=smoothing
    )
    ones = np.ones(12, np.float32)
    term = weighted_cross_entropy(LOGITS, LABELS, ones, smoothing, class_weights)
    assert mean(term) == pytest.approx(float(judge), rel=1e-5)
    # Rows that only fill a batch count for nothing.
    some = (np.arange(12) < 7).astype(np.float32)
    part = weighted_cross_entropy(LOGITS[:7], LABELS[:7], ones[:7], smoothing, class_weights)
    filled = weighted_cross_entropy(LOGITS, LABELS, some, smoothing, class_weights)
    assert mean(filled) == pytest.approx(mean(part), rel=1e-5)


@pytest.mark.parametrize("class_weights", [(), WEIGHTS])
def test_the_loss_of_sets_is_that_of_torch(class_weights):
    torch = pytest.importorskip("torch")
    sets = RNG.integers(2, size=(12, 3)).astype(np.float32)
    judge = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.tensor(LOGITS),
        torch.tensor(sets),
        pos_weight=torch.tensor(class_weights) if class_weights else None,
    )
    batch = {"label": sets, "weights": np.ones(12, np.float32)}
    term = class_terms(LOGITS, batch, True, 0.0, class_weights)["loss"]
    assert mean(term) == pytest.approx(float(judge), rel=1e-5)


def test_balanced_is_that_of_scikit_learn():
    utils = pytest.importorskip("sklearn.utils.class_weight")
    judge = utils.compute_class_weight("balanced", classes=np.arange(3), y=LABELS)
    np.testing.assert_allclose(balanced_weights(LABELS, 3), judge)
    assert balanced_weights(np.array([0, 0]), 2) == (0.5, 1.0)  # none of the second
    assert balanced_set_weights(np.array([[1, 0, 1], [1, 0, 0], [1, 0, 0]])) == (1.0, 1.0, 2.0)


def test_balanced_becomes_numbers_when_the_records_are_read():
    records = small.records_of(*({"text": "t", "label": name} for name in "aaab"))
    for weights in ("balanced", ("balanced",)):
        config = base_config("classification")
        config.objective.class_weights = weights
        parsed = parse_config(config).objective
        inferred = TABLE.load("classification").infer_labels(parsed, records)
        assert inferred.class_weights == pytest.approx((4 / 6, 2.0))
        assert TABLE.load("classification").infer_labels(inferred, records) == inferred
    tagged = small.records_of({"tokens": list("abcd"), "tags": ["O", "O", "O", "B-X"]})
    tags = TokenClassification(class_weights=("balanced",))
    assert TABLE.load("token_classification").infer_labels(tags, tagged).class_weights == (2.0, 4 / 6)
    sets = small.records_of(*({"text": "t", "label": label} for label in (["x"], ["x", "y"], ["x"])))
    several = Classification(multi_label=True, class_weights=("balanced",))
    assert TABLE.load("classification").infer_labels(several, sets).class_weights == (1.0, 2.0)


def test_modules_use_them():
    records = small.records_of(*({"text": "t", "label": name} for name in "aab"))
    losses = []
    for weights in ((), (1.0, 1.0), (1.0, 9.0)):
        spec = small.spec_of("classification", "encoder", records, class_weights=weights)
        batch = {"label": np.array([0, 0, 1], np.int32), "weights": np.ones(3, np.float32)}
        module = small.module_of("classification", "encoder", spec.config)
        terms = module.terms({"logits": np.array([[2.0, 0], [2.0, 0], [2.0, 0]], np.float32)}, batch)
        losses.append(mean(terms["loss"]))
        assert mean(terms["accuracy"]) == pytest.approx(2 / 3)
    nll = np.log1p(np.exp([-2.0, -2.0, 2.0]))
    assert losses[0] == pytest.approx(losses[1]) == pytest.approx(nll.mean())
    assert losses[2] == pytest.approx((nll * [1, 1, 9]).sum() / 11)


@pytest.mark.parametrize(
    ("weights", "labels", "message"),
    [
        (("balancd",), (), "must be 'balanced' or numbers"),
        ((1.0, 0.0), (), "must be finite and above 0"),
        ((1.0, float("inf")), (), "must be finite and above 0"),
        ((1.0, 2.0, 3.0), ("a", "b"), "one weight for each of the 2 classes"),
    ],
)
@pytest.mark.parametrize("config_class", [Classification, TokenClassification])
def test_wrong_weights(weights, labels, message, config_class):
    with pytest.raises(ConfigError, match=rf"objective.class_weights = .* {message}"):
        config_class(class_weights=weights, labels=labels).validate()
