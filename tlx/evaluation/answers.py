"""What a task's model answers for records, and how good that is."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from tlx.base.errors import DataError
from tlx.data.readers import Record
from tlx.data.records import RecordPipeline
from tlx.evaluation.writing import write
from tlx.metrics.resampling import interval
from tlx.tasks.shared.base import Prediction, Scores, Task, TaskModule, TaskSpec

Batch = Mapping[str, Any]


class Predictor(NamedTuple):
    """A task's module, jitted: run(params, batch) gives ({term: (sum, weight)}, outputs [B, ...])."""

    module: TaskModule
    run: Callable[[Any, Batch], tuple[dict[str, Any], dict[str, jax.Array]]]


class SplitPredictions(NamedTuple):
    """Answers to the first records of a split (all of them, unless cut short), and the means of the
    module's terms."""

    terms: dict[str, float]
    answers: list[Prediction]
    records: Sequence[Record]


class Evaluation(NamedTuple):
    """What answers are worth; figures are the means of terms and the task's scores."""

    figures: dict[str, float]
    scores: Scores
    answers: list[Prediction]
    records: Sequence[Record]


def make_predictor(module: TaskModule, whole: Any = None) -> Predictor:
    """Jitted, without dropout and label smoothing. Build it once: every call compiles again.

    `whole`: the sharding of results, on every device, where there are several.
    """
    module = module.clone(loss=dataclasses.replace(module.loss, label_smoothing=0.0))

    def predict(params: Any, batch: Batch) -> tuple[dict[str, Any], dict[str, jax.Array]]:
        terms, outputs = module.apply({"params": params}, batch, method="evaluated")
        return {name: (term.sum, term.weight) for name, term in terms.items()}, outputs

    return Predictor(module, jax.jit(predict, out_shardings=whole))


def predict_split(
    predictor: Predictor,
    params: Any,
    task: Task,
    spec: TaskSpec,
    pipeline: RecordPipeline,
    rows: Sequence[int] | None = None,
    place: Callable[[Batch], Batch] = lambda batch: batch,
    num_batches: int | None = None,
) -> SplitPredictions:
    """Goes over the split once, or over its first batches. rows, place: as in training."""
    batches = itertools.islice(pipeline.epoch_batches(rows), num_batches)
    found = [predictor.run(params, place(batch)) for batch in batches]
    if not found:
        raise DataError("there is nothing to answer: the split has no batches")
    terms, outputs = zip(*jax.device_get(found), strict=True)
    count, size = len(found) * pipeline.batch_size, len(pipeline.items)
    # A record may be several items: only those count of which all items were seen.
    seen = len(pipeline.records) if count >= size else max(1, pipeline.items[count].record)
    items = [item for item in pipeline.items[:count] if item.record < seen]
    joined = {name: np.concatenate([part[name] for part in outputs])[: len(items)] for name in outputs[0]}
    request = task.generation_requests(items, spec)
    if request is not None:
        model = predictor.module.model
        joined["written"] = write(model, params["model"], request, spec, pipeline.batch_size)
    return SplitPredictions(_means(terms), task.predictions(joined, items, spec), pipeline.records[:seen])


def evaluate_task(predictor: Predictor, params: Any, task: Task, spec: TaskSpec, *rest: Any) -> Evaluation:
    """Answers (`rest`: as answer has it) and their scores."""
    terms, answers, records = predict_split(predictor, params, task, spec, *rest)
    scores = task.score(answers, records, spec)
    return Evaluation(terms | scores.figures, scores, answers, records)


def with_interval(evaluation: Evaluation) -> dict[str, Any]:
    """The figures, the interval of the one that counts most (and what it is where every record gets the same
    answer), and of how many records, for a file."""
    found = interval(evaluation.scores.statistic, len(evaluation.records))
    return {
        "records": len(evaluation.records),
        "main": evaluation.scores.main,
        "interval_95": [found.low, found.high],
        "same_answer": [evaluation.scores.majority_baseline],
        "lower_is_better": evaluation.scores.lower_is_better,
        **evaluation.figures,
    }


def _means(terms: Sequence[Mapping[str, tuple[Any, Any]]]) -> dict[str, float]:
    """Of each term over all batches, sums in float64."""
    totals = {name: np.sum([part[name] for part in terms], axis=0, dtype=np.float64) for name in terms[0]}
    return {name: float(total / weight) if weight else 0.0 for name, (total, weight) in totals.items()}
