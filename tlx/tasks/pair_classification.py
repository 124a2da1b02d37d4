"""Which class a pair of texts belongs to: entailment, paraphrase, whether an answer answers.

Both texts stand in one row, the first one first (inputs.py); all else is as for one text.
"""

import dataclasses

from typing_extensions import override

from tlx.tasks.classification import Classes, ClassificationTask
from tlx.tasks.shared.base import Columns


@dataclasses.dataclass(frozen=True)
class PairClassification(Classes):
    """Classes of a pair of texts."""

    name: str = "pair_classification"
    """Name in the table of tasks."""
    first: str = "premise"
    """Column with the first text."""
    second: str = "hypothesis"
    """Column with the second text."""


class PairClassificationTask(ClassificationTask):
    """Two texts, one class or several."""

    config_class = PairClassification

    @override
    def text_columns(self, config: PairClassification) -> Columns:
        """Return both columns."""
        return ((config.first, "objective.first"), (config.second, "objective.second"))


TASK = PairClassificationTask()
