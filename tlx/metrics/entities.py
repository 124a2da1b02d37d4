"""Scores of entities in sequences of tags, as seqeval computes them."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from tlx.metrics.libraries import library


def entity_scores(
    predicted: Sequence[Sequence[str]],
    true: Sequence[Sequence[str]],
    scheme: Literal["conll", "IOB1", "IOB2", "IOE1", "IOE2", "IOBES", "BILOU"] = "conll",
) -> dict[str, float]:
    """Compute precision, recall and F1 of whole entities.

    An entity is correct where its type, begin and end are.

    Args:
        predicted: Predicted tags of each sequence.
        true: True tags of each sequence.
        scheme: "conll" reads tags as conlleval does (an I- tag without a B- tag before it begins an entity);
            any other scheme counts only what is well formed in it (seqeval's strict mode).

    Returns:
        "precision", "recall" and "f1" (micro averages), and "f1/TYPE" for each entity type.

    Raises:
        ConfigError: seqeval is not installed.
    """
    metrics = library("seqeval.metrics", "seqeval", "entity F1")
    options: dict[str, Any] = {"zero_division": 0}
    if scheme != "conll":
        schemes = library("seqeval.scheme", "seqeval", "entity F1")
        options |= {"mode": "strict", "scheme": getattr(schemes, scheme)}
    true_tags = [list(tags) for tags in true]
    predicted_tags = [list(tags) for tags in predicted]
    report = metrics.classification_report(true_tags, predicted_tags, output_dict=True, **options)
    average = report.pop("micro avg")
    scores = {"precision": average["precision"], "recall": average["recall"], "f1": average["f1-score"]}
    for entity_type, rates in report.items():
        if not entity_type.endswith(" avg"):
            scores[f"f1/{entity_type}"] = rates["f1-score"]
    return {name: float(value) for name, value in scores.items()}


def entity_counts(predicted: Sequence[Sequence[str]], true: Sequence[Sequence[str]]) -> np.ndarray:
    """Count each sequence's correct, predicted and true entities, int64[N, 3], as conlleval reads tags."""
    labeling = library("seqeval.metrics.sequence_labeling", "seqeval", "entity F1")
    rows = []
    for predicted_tags, true_tags in zip(predicted, true, strict=True):
        predicted_entities = set(labeling.get_entities(list(predicted_tags)))
        true_entities = set(labeling.get_entities(list(true_tags)))
        num_correct = len(predicted_entities & true_entities)
        rows.append([num_correct, len(predicted_entities), len(true_entities)])
    return np.array(rows)


def micro_f1(counts: np.ndarray) -> float:
    """Return the F1 of all entities, from counts [N, 3] of `entity_counts`; 0 where there are none."""
    num_correct, num_predicted, num_true = counts.sum(axis=0)
    total = num_predicted + num_true
    return float(2 * num_correct / total) if total else 0.0
