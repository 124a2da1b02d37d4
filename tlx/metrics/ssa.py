"""Sensibleness and specificity of a chatbot's answers, from human ratings (Adiwardana et al. 2020, 2.1)."""

from typing import NamedTuple

import numpy as np


class SSA(NamedTuple):
    """Fractions of answers, 0 to 1."""

    sensibleness: float
    """Fraction of answers that make sense."""
    specificity: float
    """Fraction of answers that make sense and are specific."""
    average: float
    """Mean of the two."""


def ssa(sensible: np.ndarray, specific: np.ndarray) -> SSA:
    """Compute sensibleness and specificity from labels of 0 and 1, [answers, raters].

    The majority of an answer's raters decides. An answer that is not sensible is not specific, whatever its
    raters say. Raises ValueError where the two have different numbers of answers.
    """
    sensible = _majority(sensible)
    specific = _majority(specific)
    if sensible.shape != specific.shape:
        raise ValueError(f"{sensible.size} answers have a first label and {specific.size} a second one")
    sensibleness = float(sensible.mean())
    specificity = float((specific & sensible).mean())
    return SSA(sensibleness, specificity, (sensibleness + specificity) / 2)


def _majority(labels: np.ndarray) -> np.ndarray:
    labels = np.asarray(labels, np.float64)
    return labels.reshape(len(labels), -1).mean(axis=1) > 0.5
