"""Scores of ambiguous pronouns by gender (GAP, Webster et al. 2018), as its gap_scorer.py computes them.

For each of two names the question is whether the pronoun means it: F1 over all names, F1 of masculine and of feminine
pronouns, and the ratio of feminine to masculine ("bias").
"""

from collections.abc import Sequence

import numpy as np

MASCULINE = ("he", "him", "his")
FEMININE = ("she", "her", "hers")


def gender_of(pronoun: str) -> str:
    """Return "masculine", "feminine", or "" for a text that is no such pronoun."""
    pronoun = pronoun.lower()
    if pronoun in MASCULINE:
        return "masculine"
    return "feminine" if pronoun in FEMININE else ""


def gap_counts(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Count right, wrong and missed names of each record, float64 [N, 3].

    Args:
        predicted: [N, 2], whether the pronoun is said to mean each name; a fraction is a probability of saying so.
        true: [N, 2], whether it does.
    """
    chosen = np.asarray(predicted, np.float64)
    meant = np.asarray(true, np.float64)
    parts = [chosen * meant, chosen * (1 - meant), (1 - chosen) * meant]
    return np.stack([part.sum(axis=1) for part in parts], axis=1)


def f1_of(counts: np.ndarray) -> float:
    """Return the F1 of all names, from counts [N, 3] of `gap_counts`; 0 where there are none."""
    right, wrong, missed = counts.sum(axis=0)
    total = 2 * right + wrong + missed
    return float(2 * right / total) if total else 0.0


def gap_figures(counts: np.ndarray, genders: Sequence[str], name: str = "gap") -> dict[str, float]:
    """Return F1 of all pronouns and of each gender, and the bias.

    Args:
        counts: [N, 3] of `gap_counts`.
        genders: Gender of each record's pronoun, as `gender_of` names it.
        name: What the figures' names begin with.

    Returns:
        NAME_f1, NAME_f1_masculine, NAME_f1_feminine, and NAME_bias where the masculine F1 is not 0.
    """
    figures = {f"{name}_f1": f1_of(counts)}
    for gender in ("masculine", "feminine"):
        chosen = np.array([one == gender for one in genders], bool)
        figures[f"{name}_f1_{gender}"] = f1_of(counts[chosen])
    if figures[f"{name}_f1_masculine"]:
        figures[f"{name}_bias"] = figures[f"{name}_f1_feminine"] / figures[f"{name}_f1_masculine"]
    return figures


def random_choices(num_records: int) -> np.ndarray:
    """Return the probabilities of a baseline that names one of both at random, float64 [N, 2]."""
    return np.full((num_records, 2), 0.5)


def nearest_choices(pronouns: np.ndarray, names: np.ndarray) -> np.ndarray:
    """Return the choices of a baseline that names the nearer one, bool [N, 2].

    Args:
        pronouns: [N, 2], the first character of each pronoun, and the one after its last.
        names: [N, 2, 2], the same of both names.
    """
    before = pronouns[:, None, 0] - names[..., 1]
    after = names[..., 0] - pronouns[:, None, 1]
    distances = np.maximum(before, after)
    return np.arange(2) == distances.argmin(axis=1)[:, None]
