"""SQuAD's exact match and F1 of answers against reference answers, by the rules of its evaluation scripts.

Both texts are lower-cased and lose ASCII punctuation, the words a, an and the, and extra white space. An
example gets the best score over its references. One without references (SQuAD 2) is correct where the answer
is empty. Rajpurkar et al. 2016, section 6.1; 2018, section 5.
"""

import collections
import re
import string
from collections.abc import Callable, Sequence

import numpy as np

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b", re.UNICODE)


def normalized(text: str) -> str:
    """Normalise a text for comparison."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, reference: str) -> float:
    """Return 1 where both texts are equal after normalisation, else 0."""
    return float(normalized(answer) == normalized(reference))


def f1(answer: str, reference: str) -> float:
    """Return the F1 of the two bags of words; where one is empty, 1 if both are, else 0."""
    answer_words = normalized(answer).split()
    reference_words = normalized(reference).split()
    if not answer_words or not reference_words:
        return float(answer_words == reference_words)
    common = sum((collections.Counter(answer_words) & collections.Counter(reference_words)).values())
    return 2 * common / (len(answer_words) + len(reference_words))


def scores(answers: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Average exact match and F1 over the examples, 0 to 1.

    Args:
        answers: The predicted answers, N of them.
        references: The accepted answers of each example; none where it has no answer, and "" is correct.

    Returns:
        "exact_match" and "f1"; with unanswerable examples also "no_answer", "has_answer_exact_match" and
        "has_answer_f1".
    """
    exact = per_example(answers, references, exact_match)
    overlap = per_example(answers, references, f1)
    figures = {"exact_match": float(exact.mean()), "f1": float(overlap.mean())}
    answerable = np.array([_answerable(accepted) for accepted in references])
    if answerable.all():
        return figures
    figures["no_answer"] = float(exact[~answerable].mean())
    if answerable.any():
        figures["has_answer_exact_match"] = float(exact[answerable].mean())
        figures["has_answer_f1"] = float(overlap[answerable].mean())
    return figures


def best_thresholds(
    answers: Sequence[str], references: Sequence[Sequence[str]], differences: Sequence[float]
) -> dict[str, float]:
    """Find the thresholds of "no answer" that score best, as evaluate-v2.0.py of SQuAD 2 does.

    Args:
        answers: The best answer of each example, whether or not it was predicted.
        references: The accepted answers of each example.
        differences: The score of there being no answer less that of the best answer.

    Returns:
        "best_exact_match" and "best_f1", 0 to 1, with "..._threshold": there is no answer above it. Nothing where
        every example has an answer.
    """
    answerable = np.array([_answerable(accepted) for accepted in references])
    if answerable.all():
        return {}
    order = np.argsort(np.asarray(differences, np.float64), kind="stable")
    spoils = np.array([bool(answer) for answer in answers]) & ~answerable
    figures = {}
    for name, score in (("exact_match", exact_match), ("f1", f1)):
        # From no example with an answer to all: each adds its score, or takes one that was right without.
        changes = np.where(answerable, per_example(answers, references, score), -1.0 * spoils)[order]
        totals = np.concatenate([[0.0], np.cumsum(changes)]) + (~answerable).sum()
        best = int(totals.argmax())
        figures[f"best_{name}"] = float(totals[best] / len(answers))
        # Below all of them where no answer is best (the script, whose scores are probabilities, says 0).
        threshold = differences[order[best - 1]] if best else differences[order[0]] - 1
        figures[f"best_{name}_threshold"] = float(threshold)
    return figures


def per_example(
    answers: Sequence[str], references: Sequence[Sequence[str]], score: Callable[[str, str], float]
) -> np.ndarray:
    """Compute each answer's best score over its references.

    Args:
        answers: The predicted answers, N of them.
        references: The accepted answers of each example.
        score: The score of one answer against one reference.

    Returns:
        float64[N].
    """
    best = []
    for answer, accepted in zip(answers, references, strict=True):
        best.append(max(score(answer, text) for text in _nonempty(accepted)))
    return np.array(best)


def _answerable(references: Sequence[str]) -> bool:
    return any(normalized(text) for text in references)


def _nonempty(references: Sequence[str]) -> Sequence[str]:
    """Return the references that are not empty, else the empty answer."""
    return [text for text in references if normalized(text)] or [""]
