"""The best evaluation and the end of patience follow one metric, and a resumed run takes up both."""

import pytest

from tlx.base.errors import ConfigError
from tlx.checkpoint.best import BestStep
from tlx.training.config import EvalConfig
from tlx.training.improvement import Improvement, check_metric, lower_is_better

LOSSES = [3.0, 2.0, 2.5, None, 1.99, 1.98]


def lines(values, metric="loss"):
    steps = range(10, 10 * len(values) + 1, 10)
    return [
        {"step": step, "kind": "validation", metric: value} for step, value in zip(steps, values, strict=True)
    ]


def see_all(improvement, values):
    return [tuple(improvement.see(10 * (i + 1), value)) for i, value in enumerate(values)]


def test_the_best_is_the_lowest_loss_and_nan_is_never_best():
    improvement = Improvement(EvalConfig(every=10))
    verdicts = see_all(improvement, [None, float("nan"), *LOSSES])
    assert [is_best for is_best, _ in verdicts] == [False, False, True, True, False, False, True, True]
    assert improvement.best == BestStep(80, "loss", 1.98) and not improvement.reason


@pytest.mark.parametrize(
    ("patience", "min_delta", "stops_at"),
    [(0, 0.0, None), (2, 0.0, 40), (3, 0.0, None), (3, 0.1, 50), (1, 0.0, 30)],
)
def test_patience_counts_evaluations_without_an_improvement(patience, min_delta, stops_at):
    improvement = Improvement(EvalConfig(every=10, patience=patience, min_delta=min_delta))
    stops = [10 * (i + 1) for i, (_, stop) in enumerate(see_all(improvement, LOSSES)) if stop]
    assert (stops or [None])[0] == stops_at


def test_the_reason_names_metric_step_and_patience():
    improvement = Improvement(EvalConfig(every=10, patience=2, min_delta=0.5))
    see_all(improvement, [3.0, 2.9, 2.8])
    assert improvement.reason == (
        "validation loss has not improved by 0.5 since step 10, where it was 3.0000: 2 evaluations "
        "(eval.patience = 2)"
    )


@pytest.mark.parametrize("cut", range(7))
def test_a_resumed_run_decides_as_one_that_was_never_stopped(cut):
    config = EvalConfig(every=10, patience=2)
    whole = Improvement(config)
    verdicts = see_all(whole, LOSSES)
    resumed = Improvement(config)
    earlier = [*lines(LOSSES[:cut]), {"step": 5, "kind": "train", "loss": 0.0}]
    resumed.replay(earlier, saved_steps=range(100))
    rest = [tuple(resumed.see(10 * (i + 1), LOSSES[i])) for i in range(cut, len(LOSSES))]
    assert rest == verdicts[cut:] and resumed.best == whole.best and resumed.reason == whole.reason


def test_only_a_saved_step_can_be_the_best_of_earlier_starts():
    improvement = Improvement(EvalConfig(every=10, patience=4))
    improvement.replay(lines([3.0, 1.0, 2.0]), saved_steps=[10, 30])
    assert improvement.best == BestStep(30, "loss", 2.0)
    assert improvement.see(40, 1.5) == (True, False), "better than all that is saved"
    assert "since step 20, where it was 1.0" in Improvement._reason(improvement)


@pytest.mark.parametrize(
    ("metric", "lower"),
    [
        ("loss", True),
        ("total_loss", True),
        ("bits_per_byte", True),
        ("perplexity", True),
        ("parts/error_rate", True),
        ("accuracy", False),
        ("f1_micro", False),
        ("rouge1", False),
        ("pearson", False),
    ],
)
def test_the_direction_follows_from_the_name_unless_the_config_says_it(metric, lower):
    assert lower_is_better(EvalConfig(metric=metric)) is lower
    assert lower_is_better(EvalConfig(metric=metric, lower_is_better=not lower)) is not lower
    improvement = Improvement(EvalConfig(every=1, metric=metric))
    improvement.replay(lines([1.0, 2.0], metric), saved_steps=[10, 20])
    assert improvement.best.step == (10 if lower else 20)


def test_an_unknown_metric_names_the_nearest():
    with pytest.raises(
        ConfigError, match="eval.metric = 'acuracy' is not one of: loss, accuracy; did you mean"
    ):
        check_metric(EvalConfig(metric="acuracy"), {"loss": 1.0, "accuracy": 0.5})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"patience": -1}, "eval.patience = -1 must be 0 or more"),
        ({"patience": 2, "every": 0}, "eval.patience = 2 counts evaluations, but eval.every = 0 makes none"),
        ({"every": 1, "min_delta": -0.1}, "eval.min_delta = -0.1 must be 0 or more"),
        ({"every": 1, "min_delta": float("nan")}, "eval.min_delta"),
    ],
)
def test_values_that_no_run_can_have(values, message):
    with pytest.raises(ConfigError, match=message):
        EvalConfig(**values).validate()
