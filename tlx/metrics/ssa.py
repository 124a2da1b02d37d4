"""Sensibleness and specificity of a chatbot's answers, from people's labels (Adiwardana et al. 2020, 2.1)."""

from typing import NamedTuple

import numpy as np


class SSA(NamedTuple):
    """Shares of answers, 0 to 1; `average` is the mean of the two."""

    sensibleness: float
    specificity: float
    average: float


def ssa(sensible: np.ndarray, specific: np.ndarray) -> SSA:
    """Labels [answers, raters] of 0 and 1 (or of [answers], one rater's).

    An answer is what more than half of its raters say. An answer that is not sensible is not specific,
    whatever was said of it.
    """
    sensible, specific = _majority(sensible), _majority(specific)
    if sensible.shape != specific.shape:
        raise ValueError(f"{sensible.size} answers have a first label and {specific.size} a second one")
    specific = specific & sensible
    shares = float(sensible.mean()), float(specific.mean())
    return SSA(*shares, sum(shares) / 2)


def _majority(labels: np.ndarray) -> np.ndarray:
    labels = np.asarray(labels, np.float64)
    return labels.reshape(len(labels), -1).mean(axis=1) > 0.5
