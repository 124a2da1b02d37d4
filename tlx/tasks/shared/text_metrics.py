"""Metrics of generated texts, by the names that configs give; each is a function of record indices.

accuracy                        the text is one of the references, white space around it aside
exact_match, f1                 SQuAD's
bleu, chrf, chrf++              0 to 100, of the corpus
rouge1, rouge2, rougeL, rougeLsum
pearson, spearman               of the numbers that are written; what is none counts as -1 (T5's rule)
"""

import collections
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tlx.metrics import generation, squad
from tlx.metrics.correlation import pearson, spearman
from tlx.metrics.resampling import Statistic, mean_of

Texts = Sequence[str]
References = Sequence[Sequence[str]]
"""Of each text those that are accepted, one or more."""


def _accuracy(texts: Texts, references: References) -> Statistic:
    pairs = zip(texts, references, strict=True)
    return mean_of(
        np.array([text.strip() in {known.strip() for known in accepted} for text, accepted in pairs])
    )


def _squad(score: Callable[[str, str], float]) -> Callable[[Texts, References], Statistic]:
    return lambda texts, references: mean_of(squad.per_example(texts, references, score))


def _rouge(name: str) -> Callable[[Texts, References], Statistic]:
    return lambda texts, references: mean_of(generation.rouge_per_example(texts, references)[name])


def _correlation(score: Callable[..., float]) -> Callable[[Texts, References], Statistic]:
    def statistic(texts: Texts, references: References) -> Statistic:
        predicted = np.array([_number(text) for text in texts])
        true = np.array([_number(accepted[0]) for accepted in references])
        return lambda chosen: score(predicted[chosen], true[chosen])

    return statistic


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return -1.0
    return value if math.isfinite(value) else -1.0


METRICS: dict[str, Callable[[Texts, References], Statistic]] = {
    "accuracy": _accuracy,
    "exact_match": _squad(squad.exact_match),
    "f1": _squad(squad.f1),
    "bleu": generation.bleu_statistic,
    "chrf": generation.chrf_statistic,
    "chrf++": lambda texts, references: generation.chrf_statistic(texts, references, word_order=2),
    **{name: _rouge(name) for name in generation.ROUGE},
    "pearson": _correlation(pearson),
    "spearman": _correlation(spearman),
}

PERCENT = ("bleu", "chrf", "chrf++")  # from 0 to 100; the others are from 0, or -1, to 1

_CORRELATIONS = ("pearson", "spearman")


def check_libraries(config: Any) -> None:
    """Raise ConfigError where a metric of a task's config, or of its parts, needs a package that is missing.

    Called before a training, whose metrics come at its end.
    """
    for part in (config, *getattr(config, "parts", ())):
        for metric in getattr(part, "metrics", ()):
            if metric in METRICS:
                METRICS[metric](["a"], [["a"]])


def majority_baseline(metric: str, references: References) -> float:
    """Return what the most frequent reference scores as the prediction for every record."""
    if metric in _CORRELATIONS:
        return 0.0  # a constant correlates with nothing
    counts = collections.Counter(accepted[0] for accepted in references if accepted)
    (text, _), *_ = counts.most_common(1) or [("", 0)]
    statistic = METRICS[metric]([text] * len(references), references)
    return float(statistic(np.arange(len(references))))
