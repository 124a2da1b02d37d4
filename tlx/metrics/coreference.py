"""Scores of coreference clusters as CoNLL-2012 has them: MUC, B-cubed, CEAF with phi4, and the mean of their F1.

    MUC      links: Vilain et al. 1995
    B-cubed  mentions: Bagga and Baldwin 1998
    CEAF     clusters, matched one to one by phi4 = 2 |c & t| / (|c| + |t|): Luo 2005 ("CEAFe")

All are ratios of sums over documents. Clusters of one mention count in B-cubed and CEAF, on either side; OntoNotes
and the models trained on it have none. Mentions are predicted ones, that may be on one side alone, which is what
version 8 of the reference scorer computes (Pradhan et al. 2014).
"""

from collections.abc import Collection, Hashable, Sequence

import numpy as np

Cluster = Collection[Hashable]
"""The mentions of an entity."""

METRICS = ("muc", "b3", "ceaf")
"""Names of the metrics, in the order of their counts."""


def document_counts(predicted: Sequence[Cluster], true: Sequence[Cluster]) -> np.ndarray:
    """Count what the metrics of a document are ratios of.

    Args:
        predicted: Predicted clusters; no mention is in two of them.
        true: True clusters, likewise.

    Returns:
        float64 [3, 4]: for each of METRICS numerator and denominator of its precision, then of its recall.
    """
    overlaps = _overlaps(predicted, true)
    predicted_sizes = np.array([len(cluster) for cluster in predicted], np.float64)
    true_sizes = np.array([len(cluster) for cluster in true], np.float64)
    similarity = _best_similarity(overlaps, predicted_sizes, true_sizes)
    return np.array(
        [
            [*_links(overlaps, predicted_sizes), *_links(overlaps.T, true_sizes)],
            [*_mentions(overlaps, predicted_sizes), *_mentions(overlaps.T, true_sizes)],
            [similarity, len(predicted), similarity, len(true)],
        ]
    )


def figures(counts: np.ndarray) -> dict[str, float]:
    """Return precision, recall and F1 of each metric over documents, 0 to 1, and "conll_f1", the mean of the F1.

    Args:
        counts: [N, 3, 4] of `document_counts`.

    Returns:
        "muc_precision", "muc_recall", "muc_f1", the same of "b3" and "ceaf", and "conll_f1"; 0 where a
        denominator is.
    """
    values = {}
    for name, (hits, num_predicted, found, num_true) in zip(METRICS, counts.sum(axis=0), strict=True):
        precision = _ratio(hits, num_predicted)
        recall = _ratio(found, num_true)
        values[f"{name}_precision"] = precision
        values[f"{name}_recall"] = recall
        values[f"{name}_f1"] = _ratio(2 * precision * recall, precision + recall)
    values["conll_f1"] = sum(values[f"{name}_f1"] for name in METRICS) / len(METRICS)
    return values


def _ratio(numerator: float, denominator: float) -> float:
    return float(numerator / denominator) if denominator else 0.0


def _overlaps(predicted: Sequence[Cluster], true: Sequence[Cluster]) -> np.ndarray:
    """Number of mentions that two clusters share, float64 [P, T]."""
    true_sets = [set(cluster) for cluster in true]
    counts = [[len(other.intersection(cluster)) for other in true_sets] for cluster in predicted]
    return np.array(counts, np.float64).reshape(len(predicted), len(true))


def _links(overlaps: np.ndarray, sizes: np.ndarray) -> tuple[float, float]:
    """MUC: the links of clusters that the other side has, and all. A mention that is on one side is a part alone."""
    num_parts = (overlaps > 0).sum(axis=1) + sizes - overlaps.sum(axis=1)
    return float((sizes - num_parts).sum()), float((sizes - 1).sum())


def _mentions(overlaps: np.ndarray, sizes: np.ndarray) -> tuple[float, float]:
    """B-cubed: the sum over mentions of the fraction of their cluster that is right, and the number of mentions."""
    return float(((overlaps**2).sum(axis=1) / sizes).sum()), float(sizes.sum())


def _best_similarity(overlaps: np.ndarray, predicted_sizes: np.ndarray, true_sizes: np.ndarray) -> float:
    """CEAF: the sum of phi4 over the best one-to-one matching of clusters."""
    if not overlaps.size:
        return 0.0
    similarities = 2 * overlaps / (predicted_sizes[:, None] + true_sizes[None, :])
    # Here: imported at the top, it would be a third of what every start of tlx costs.
    import scipy.optimize

    rows, columns = scipy.optimize.linear_sum_assignment(similarities, maximize=True)
    return float(similarities[rows, columns].sum())
