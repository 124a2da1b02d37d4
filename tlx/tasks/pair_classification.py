"""Which class a pair of texts belongs to: entailment, paraphrase, whether an answer answers.

Both texts stand in one row, the first one first (rows.py); the rest is as for one text.
"""

import dataclasses

from tlx.tasks.classification import Classes, ClassificationTask


@dataclasses.dataclass(frozen=True)
class PairClassification(Classes):
    """first, second: the columns that have the texts."""

    name: str = "pair_classification"
    first: str = "premise"
    second: str = "hypothesis"


class PairClassificationTask(ClassificationTask):
    """Two texts, one class or several."""

    config_class = PairClassification

    def text_columns(self, config: PairClassification) -> tuple[tuple[str, str], ...]:
        """Both columns."""
        return ((config.first, "objective.first"), (config.second, "objective.second"))


TASK = PairClassificationTask()
