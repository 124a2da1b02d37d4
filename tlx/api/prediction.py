"""Predictions of a loaded model that was fine-tuned on a task."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, cast

from tlx.api.core import ModelCore
from tlx.base.errors import ConfigError
from tlx.data.readers import Record
from tlx.data.records import RecordPipeline
from tlx.decode.padding import bucket
from tlx.evaluation.answers import Predictor, make_predictor, predict_split
from tlx.run.config import get_objective
from tlx.run.spec import spec_of
from tlx.tasks.shared.base import TaskModule, is_supervised


class PredictionMixin(ModelCore):
    """Answers to records of the task that the model was fine-tuned on."""

    def predict(self, records: str | Mapping[str, Any] | Sequence[Any]) -> Any:
        """Predict the task's answer to each record, such as {"label": ..., "probability": ...}.

        Args:
            records: One record or several. A record is a mapping of the columns that the task reads, or its
                first text column as a str.

        Returns:
            A list of predictions; one prediction for one record.

        Raises:
            ConfigError: the model is not fine-tuned on a task.
        """
        task = get_objective(self.config)
        if not is_supervised(task):
            raise ConfigError(f"predict is for fine-tuned models, this is {self.config.objective.name}")
        is_single = isinstance(records, str | Mapping)
        inputs = [records] if is_single else list(records)
        column, *_ = task.text_columns(self.config.objective)
        values = [{column[0]: record} if isinstance(record, str) else record for record in inputs]
        rows = [Record(f"record {number}", value) for number, value in enumerate(values)]
        spec = spec_of(self.config, self.tokenizer)
        items = task.prepare(rows, self.tokenizer, spec, labelled=False)
        size = min(bucket(len(items)), self.config.train.batch_size)
        pipeline = RecordPipeline(self.config.data, rows, items, task, spec, size, 0, "predict")
        answers = predict_split(self._predictor, self.params, task, spec, pipeline).answers
        return answers[0] if is_single else answers

    @functools.cached_property
    def _predictor(self) -> Predictor:
        # Only `predict` comes here, which has checked that the objective is a task.
        return make_predictor(cast(TaskModule, self.module))
