"""A number for a text: how good a review is, how hard a sentence is to read.

As for the similarity of two texts (similarity.py), but that a row has one text.
"""

import dataclasses
from typing import Literal

from typing_extensions import override

from tlx.models.heads import TaskHeadConfig
from tlx.tasks.shared.base import Columns
from tlx.tasks.shared.language_model_loss import check_lm_loss_weight
from tlx.tasks.similarity import SimilarityTask, check_scale


@dataclasses.dataclass(frozen=True)
class Regression:
    """Column of the text, and the scale of its label."""

    name: str = "regression"
    """Name in the table of tasks."""
    text: str = "text"
    """Column with the text."""
    label: str = "score"
    """Column with the number."""
    min_score: float = 0.0
    """Lower end of the scale: the number that the head gives as 0."""
    max_score: float = 1.0
    """Upper end of the scale: the number that the head gives as 1; numbers may lie outside."""
    head: TaskHeadConfig = dataclasses.field(default_factory=TaskHeadConfig)
    """Layers of the head."""
    frame: Literal["model", "tlx", "tokenizer"] = "model"
    """Special ids of a row: "model", those that the base model was trained with; "tlx" (inputs.py), those of fresh
    parameters; or "tokenizer", as an imported tokenizer's own template has them, which is how models imported with
    their head were trained."""

    lm_loss_weight: float = 0.0
    """Weight of the language model's loss on the row, decoders only (Radford et al. 2018: 0.5); 0: none."""

    def validate(self) -> None:
        """Raise ConfigError for a scale without extent and for a negative weight."""
        check_lm_loss_weight(self.lm_loss_weight)
        check_scale(self.min_score, self.max_score)


class RegressionTask(SimilarityTask):
    """One text, a number."""

    config_class = Regression

    @override
    def text_columns(self, config: Regression) -> Columns:
        """Return the one column."""
        return ((config.text, "objective.text"),)


TASK = RegressionTask()
