"""Entities in sequences of tags, scored as seqeval does."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from tlx.metrics.libraries import library


def entity_scores(
    predicted: Sequence[Sequence[str]],
    true: Sequence[Sequence[str]],
    scheme: Literal["conll", "IOB1", "IOB2", "IOE1", "IOE2", "IOBES", "BILOU"] = "conll",
) -> dict[str, float]:
    """Precision, recall and F1 (micro) of whole entities, and the F1 of each type as "f1/TYPE".

    An entity is right where type, begin and end are. "conll" reads tags as conlleval does (an I- that no B-
    begins starts an entity); a scheme by its name counts only what is well formed in it (seqeval's strict
    mode).
    """
    metrics = library("seqeval.metrics", "seqeval", "entity F1")
    mode: dict = {"zero_division": 0}
    if scheme != "conll":
        schemes = library("seqeval.scheme", "seqeval", "entity F1")
        mode |= {"mode": "strict", "scheme": getattr(schemes, scheme)}
    true, predicted = [list(tags) for tags in true], [list(tags) for tags in predicted]
    report = metrics.classification_report(true, predicted, output_dict=True, **mode)
    mean = report.pop("micro avg")
    found = {"precision": mean["precision"], "recall": mean["recall"], "f1": mean["f1-score"]}
    for kind, rates in report.items():
        if not kind.endswith(" avg"):
            found[f"f1/{kind}"] = rates["f1-score"]
    return {name: float(value) for name, value in found.items()}


def entity_counts(predicted: Sequence[Sequence[str]], true: Sequence[Sequence[str]]) -> np.ndarray:
    """int64 [N, 3]: entities that are right, said and true in each sequence, as conlleval reads tags."""
    labeling = library("seqeval.metrics.sequence_labeling", "seqeval", "entity F1")
    rows = []
    for said, there in zip(predicted, true, strict=True):
        said, there = (set(labeling.get_entities(list(tags))) for tags in (said, there))
        rows.append([len(said & there), len(said), len(there)])
    return np.array(rows)


def micro_f1(counts: np.ndarray) -> float:
    """F1 of all entities of sequences with these counts [N, 3]."""
    hits, said, there = counts.sum(axis=0)
    return float(2 * hits / (said + there)) if said + there else 0.0
