"""Predictions of a task's model for records, and their scores."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

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
    """A task's module with its jitted forward pass."""

    module: TaskModule
    """The module, without label smoothing."""
    run: Callable[[Any, Batch], tuple[dict[str, Any], dict[str, jax.Array]]]
    """(params, batch) -> ({term: (sum, weight)}, {output: [B, ...]})."""


class SplitPredictions(NamedTuple):
    """Predictions for the first records of a split: all of them, unless cut short."""

    terms: dict[str, float]
    """Mean of each of the module's terms."""
    answers: list[Prediction]
    """The prediction for each record."""
    records: Sequence[Record]
    """The records, in the same order."""


class Evaluation(NamedTuple):
    """Predictions for a split and their scores."""

    figures: dict[str, float]
    """Means of the module's terms and the task's metrics, by name."""
    scores: Scores
    """The task's metrics with the primary one's statistic and baseline."""
    answers: list[Prediction]
    """The prediction for each record."""
    records: Sequence[Record]
    """The records, in the same order."""


def make_predictor(module: TaskModule, out_sharding: Any = None) -> Predictor:
    """Jit a task's module, without dropout and label smoothing. Build it once: every call compiles again.

    `out_sharding` replicates the results over several devices; None for one device.
    """
    module = module.clone(loss=dataclasses.replace(module.loss, label_smoothing=0.0))

    def predict(params: Any, batch: Batch) -> tuple[dict[str, Any], dict[str, jax.Array]]:
        terms, outputs = cast(Any, module.apply({"params": params}, batch, method="evaluated"))
        return {name: (term.sum, term.weight) for name, term in terms.items()}, outputs

    return Predictor(module, jax.jit(predict, out_shardings=out_sharding))


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
    """Predict the records of a split, in one pass or over its first batches.

    Args:
        predictor: The jitted module.
        params: Its parameters {"model": ..., "heads": ...}.
        task: The task, which turns outputs into predictions.
        spec: The task's spec.
        pipeline: Records and items of the split.
        rows: Indices of the global batch rows that this process loads; None: all.
        place: Puts a batch on the devices.
        num_batches: Number of batches; None: the whole split.

    Returns:
        Predictions and mean terms.

    Raises:
        DataError: the split has no batches.
    """
    batches = itertools.islice(pipeline.epoch_batches(rows), num_batches)
    results = [predictor.run(params, place(batch)) for batch in batches]
    if not results:
        raise DataError("there is nothing to answer: the split has no batches")
    terms, outputs = zip(*jax.device_get(results), strict=True)
    count = len(results) * pipeline.batch_size
    num_items = len(pipeline.items)
    # A record may be several items: only records count of which all items were seen.
    num_records = len(pipeline.records) if count >= num_items else max(1, pipeline.items[count].record)
    items = [item for item in pipeline.items[:count] if item.record < num_records]
    arrays: dict[str, Any] = {
        name: np.concatenate([batch[name] for batch in outputs])[: len(items)] for name in outputs[0]
    }
    request = task.generation_requests(items, spec)
    if request is not None:
        model = predictor.module.model
        arrays["written"] = write(model, params["model"], request, spec, pipeline.batch_size)
    answers = task.predictions(arrays, items, spec)
    return SplitPredictions(_means(terms), answers, pipeline.records[:num_records])


def evaluate_task(
    predictor: Predictor,
    params: Any,
    task: Task,
    spec: TaskSpec,
    pipeline: RecordPipeline,
    rows: Sequence[int] | None = None,
    place: Callable[[Batch], Batch] = lambda batch: batch,
    num_batches: int | None = None,
) -> Evaluation:
    """Predict the records of a split and score the predictions.

    Args:
        predictor: The jitted module.
        params: Its parameters {"model": ..., "heads": ...}.
        task: The task, which turns outputs into predictions and scores them.
        spec: The task's spec.
        pipeline: Records and items of the split.
        rows: Indices of the global batch rows that this process loads; None: all.
        place: Puts a batch on the devices.
        num_batches: Number of batches; None: the whole split.

    Returns:
        Predictions and scores.

    Raises:
        DataError: the split has no batches.
    """
    terms, answers, records = predict_split(predictor, params, task, spec, pipeline, rows, place, num_batches)
    scores = task.score(answers, records, spec)
    figures = terms | task.figures_of_terms(terms) | scores.figures
    return Evaluation(figures, scores, answers, records)


def with_ceiling(evaluation: Evaluation, task: Task, spec: TaskSpec, pipeline: RecordPipeline) -> Evaluation:
    """Add what right predictions would score through the tokenizer, as the figure "f1_ceiling".

    Args:
        evaluation: Scores of the first records of the split, or of all.
        task: The task.
        spec: The task's spec.
        pipeline: Records and items of the split.

    Returns:
        The evaluation, as it is where the task has no ceiling.
    """
    items = [item for item in pipeline.items if item.record < len(evaluation.records)]
    ceiling = task.ceiling(items, evaluation.records, spec)
    if ceiling is None:
        return evaluation
    name = f"{ceiling.main}_ceiling"
    return evaluation._replace(figures=evaluation.figures | {name: ceiling.figures[ceiling.main]})


def with_interval(evaluation: Evaluation) -> dict[str, Any]:
    """Return the metrics, the primary one's bootstrap interval and majority baseline, for a file."""
    bounds = interval(evaluation.scores.statistic, len(evaluation.records))
    return {
        "records": len(evaluation.records),
        "main": evaluation.scores.main,
        "interval_95": [bounds.low, bounds.high],
        "same_answer": [evaluation.scores.majority_baseline],
        "lower_is_better": evaluation.scores.lower_is_better,
        **evaluation.figures,
    }


def _means(terms: Sequence[Mapping[str, tuple[Any, Any]]]) -> dict[str, float]:
    """Average each term over all batches, with sums in float64."""
    means = {}
    for name in terms[0]:
        sums = np.asarray(np.sum([batch[name] for batch in terms], axis=0, dtype=np.float64))
        means[name] = float(sums[0] / sums[1]) if sums[1] else 0.0
    return means
