"""SQuAD's scores of an answer's text against reference answers, by the rules of its evaluation scripts.

Both texts are lower-cased, lose ASCII punctuation, the words a, an and the, and extra white space. An example
gets the best score over its references; one without references (SQuAD 2) is right where nothing is
answered. Rajpurkar et al. 2016, section 6.1; 2018, section 5.
"""

import collections
import re
import string
from collections.abc import Callable, Sequence

import numpy as np

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b", re.UNICODE)


def normalized(text: str) -> str:
    """The text as it is compared."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, reference: str) -> float:
    """1 where both are the same once normalised, else 0."""
    return float(normalized(answer) == normalized(reference))


def f1(answer: str, reference: str) -> float:
    """F1 of the words that both share, as bags; where one has no words, whether both have none."""
    said, there = normalized(answer).split(), normalized(reference).split()
    if not said or not there:
        return float(said == there)
    common = sum((collections.Counter(said) & collections.Counter(there)).values())
    return 2 * common / (len(said) + len(there))


def scores(answers: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Means of exact match and F1, 0 to 1; with unanswerable examples, also those of the two kinds.

    references: for each example its accepted answers; none where it has no answer, and "" is right.
    """
    exact, overlap = (per_example(answers, references, score) for score in (exact_match, f1))
    found = {"exact_match": float(exact.mean()), "f1": float(overlap.mean())}
    answerable = np.array([_answerable(accepted) for accepted in references])
    if answerable.all():
        return found
    found["no_answer"] = float(exact[~answerable].mean())
    if answerable.any():
        found["has_answer_exact_match"] = float(exact[answerable].mean())
        found["has_answer_f1"] = float(overlap[answerable].mean())
    return found


def per_example(
    answers: Sequence[str], references: Sequence[Sequence[str]], score: Callable[[str, str], float]
) -> np.ndarray:
    """float64 [N]: each answer's best score over its references."""
    pairs = zip(answers, references, strict=True)
    return np.array([max(score(answer, text) for text in _accepted(known)) for answer, known in pairs])


def _answerable(references: Sequence[str]) -> bool:
    return any(normalized(text) for text in references)


def _accepted(references: Sequence[str]) -> Sequence[str]:
    """References that say something, else the empty answer."""
    return [text for text in references if normalized(text)] or [""]
