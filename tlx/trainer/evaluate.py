"""Evaluation of a trained model: `tlx.evaluate`, bits per byte of a text or scores of a task."""

import dataclasses
import itertools
import os
from collections.abc import Mapping, Sequence
from typing import Any

from tlx.api.load import load
from tlx.api.loaded_model import LoadedModel
from tlx.base.config import from_dict
from tlx.base.errors import ConfigError, one_of
from tlx.base.place import BucketPath
from tlx.data.config import DataConfig, TextConfig, TfdsConfig
from tlx.data.pipeline import Pipeline
from tlx.data.records import RecordSplit
from tlx.data.sources import TABLE as SOURCES
from tlx.data.text_bytes import bytes_of_ids
from tlx.evaluation import likelihood
from tlx.evaluation.answers import Evaluation, evaluate_task, make_predictor, with_ceiling, with_interval
from tlx.evaluation.few_shot import FewShotConfig, evaluate_few_shot
from tlx.run import RunConfig
from tlx.run.assemble import open_pipeline, open_split
from tlx.run.spec import spec_of
from tlx.trainer.config_input import ConfigLike, read_config
from tlx.trainer.outcome import write_predictions
from tlx.trainer.task_config import get_task, is_task

SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class EvaluationRequest:
    """On what a model is evaluated."""

    data: str | None = None
    """A glob of files, a source's name, or tfds:NAME; None for the run's own data."""
    column: str = "text"
    """Field of .jsonl, .parquet or tfds with the text."""
    split: RecordSplit = "validation"
    """train, validation or test; test only of records."""
    batches: int | None = None
    """Number of batches at most; None for all. Not for few-shot evaluation."""
    batch_size: int | None = None
    """Rows of a batch; None for the run's. Not for few-shot evaluation."""


@dataclasses.dataclass(frozen=True)
class EvaluationResult:
    """Result of tlx.evaluate; print() shows a line for each figure."""

    metrics: dict[str, Any]
    """By name: "loss", "bits_per_byte", "targets", "bytes" ... of a text; of records the scores, "records",
    "main" (the primary metric's name) and "interval_95"."""
    split: str
    """Split, or files, that it was evaluated on."""
    predictions: Evaluation | None = None
    """Each record with its prediction; None of a text."""

    def __str__(self) -> str:
        """Return a line for each figure."""
        lines = [self.split]
        for name, value in self.metrics.items():
            if isinstance(value, float):
                lines.append(f"  {name:20} {value:,.4f}")
        return "\n".join(lines)

    def write_predictions(self, path: str | os.PathLike | BucketPath) -> None:
        """Write a line of JSON for each record with its prediction. Raises ConfigError for a text."""
        if self.predictions is None:
            raise ConfigError("predictions are of records; a text has none")
        write_predictions(path, self.predictions)


def evaluate(
    model: LoadedModel | str | os.PathLike | BucketPath,
    *,
    config: ConfigLike | None = None,
    overrides: Mapping[str, Any] | None = None,
    data: str | None = None,
    column: str = "text",
    split: RecordSplit = "validation",
    batches: int | None = None,
    batch_size: int | None = None,
    allow: Sequence[str] = (),
) -> EvaluationResult:
    """Evaluate a model as `tlx evaluate` does.

    A pretrained model by loss and bits per byte of a text, a fine-tuned one by its task's scores, and any
    model without an update, by likelihood, where `config` is a few-shot config.

    Args:
        model: a loaded or trained model, or the path of a run directory or of one of its checkpoints.
        config: a few-shot config ("evaluate/sentence_polarity"), else None.
        overrides: values of it by dotted key, {"objective.shots": 4}.
        data: a glob of files, a source's name, or tfds:NAME; None for the run's own data.
        column: field of .jsonl, .parquet or tfds with the text.
        split: train, validation or test (of records only).
        batches: number of batches at most; None for all.
        batch_size: rows of a batch; None for the run's.
        allow: packages outside tlx whose code the saved config may name.

    Returns:
        The figures, and of records each one's prediction.

    Raises:
        ConfigError: the data or the split is not usable for such a model.
        DataError: the files cannot be read.
    """
    if split not in SPLITS:
        raise ConfigError(one_of("split", split, SPLITS))
    if not isinstance(model, LoadedModel):
        model = load(model, allow=allow)
    request = EvaluationRequest(data, column, split, batches, batch_size)
    if config is not None:
        return evaluate_prompts(model, read_config(config, overrides).config, request)
    return evaluate_model(model, request)


def evaluate_model(model: LoadedModel, request: EvaluationRequest) -> EvaluationResult:
    """Evaluate a model by the objective or the task that it was trained with."""
    if has_labels(model):
        return _evaluate_task(model, request)
    pipeline = open_text(model, request)
    scorer = likelihood.make_scorer(model.module, bytes_of_ids(pipeline.caches, model.tokenizer))
    batches = itertools.islice(pipeline.epoch_batches(), request.batches)
    memory = model.module.initial_carry(pipeline.batch_size)
    figures = likelihood.evaluate(scorer, model.params, batches, memory)
    return EvaluationResult(figures, request.data or request.split)


def has_labels(model: LoadedModel) -> bool:
    """Return whether the model was trained on a task, so that its records have predictions."""
    return is_task(model.config)


def records_of_request(config: RunConfig, request: EvaluationRequest) -> tuple[RunConfig, RecordSplit]:
    """Return the config, and the split of it, whose records a request means: the run's own, or those of files.

    Raises:
        ConfigError: Files are given to a run of several sets of records.
    """
    if request.data is None:
        return config, request.split
    if config.data.records.sets:
        names = ", ".join(records.name for records in config.data.records.sets)
        raise ConfigError(f"--data: the run has several sets of records ({names}); give --split alone")
    records = dataclasses.replace(config.data.records, test=(request.data,))
    return dataclasses.replace(config, data=dataclasses.replace(config.data, records=records)), "test"


def open_records(model: LoadedModel, request: EvaluationRequest) -> Any:
    """Return the run's records of a split, or all of some files, as a RecordPipeline."""
    config, split = records_of_request(model.config, request)
    return open_split(config, model.tokenizer, split, request.batch_size or 0)


def _evaluate_task(model: LoadedModel, request: EvaluationRequest) -> EvaluationResult:
    """Scores on the run's records of a split, or on all of some files."""
    config = model.config
    pipeline = open_records(model, request)
    module: Any = model.module
    spec: Any = spec_of(config, model.tokenizer)
    evaluation = evaluate_task(
        make_predictor(module),
        model.params,
        get_task(config),
        spec,
        pipeline,
        None,
        lambda batch: batch,
        request.batches,
    )
    evaluation = with_ceiling(evaluation, get_task(config), spec, pipeline)
    return EvaluationResult(with_interval(evaluation), request.data or request.split, evaluation)


def evaluate_prompts(model: LoadedModel, config: Any, request: EvaluationRequest) -> EvaluationResult:
    """Evaluate by likelihood, without an update, on records that the model was not trained on.

    Args:
        model: any language model.
        config: ConfigDict of a FewShotConfig.
        request: on what.
    """
    few_shot = from_dict(FewShotConfig, config.to_dict())
    split = request.split
    if request.data is not None:
        records = dataclasses.replace(few_shot.data.records, test=(request.data,))
        if not few_shot.objective.shots:
            records = dataclasses.replace(records, train=(request.data,))
        few_shot = dataclasses.replace(few_shot, data=dataclasses.replace(few_shot.data, records=records))
        split = "test"
    for flag in ("batches", "batch_size"):
        if getattr(request, flag) is not None:
            raise ConfigError(f"--{flag} is not for prompts; --config.objective.limit=N takes N records")
    position = model.config.model.position
    length = position.max_positions or model.config.data.sequence_length
    evaluation = evaluate_few_shot(model, few_shot, split, length)
    return EvaluationResult(with_interval(evaluation), request.data or split, evaluation)


def open_text(model: LoadedModel, request: EvaluationRequest) -> Pipeline:
    """Return the batches of a text, as examples of the model's objective."""
    config = model.config
    split = request.split
    if split == "test":
        raise ConfigError(f"--split=test is for fine-tuned models, this is {config.objective.name}")
    data = select_data(config.data, request.data, request.column)
    batch_size = request.batch_size or config.train.batch_size
    if batch_size < 1:
        raise ConfigError(f"--batch_size = {batch_size} must be at least 1")
    return open_pipeline(dataclasses.replace(config, data=data), model.tokenizer, split, batch_size)


def select_data(data: DataConfig, name: str | None, column: str) -> DataConfig:
    """Return the run's data config, or one of a source by its name or of files by their glob.

    Args:
        data: the run's.
        name: as EvaluationRequest.data.
        column: field with the text.
    """
    if name is None:
        return data
    kind, _, dataset = name.partition(":")
    changes: dict[str, Any] = {"mixture": (), "source": kind}
    if kind == "tfds":
        changes["tfds"] = TfdsConfig(name=dataset, column=column)
    elif name not in SOURCES:
        if not any(mark in name for mark in "./*"):
            raise ConfigError(one_of("--data", name, [*SOURCES, "tfds:NAME"]) + "; files are given as a glob")
        text = TextConfig(files=(name,), validation_files=(name,), column=column)
        changes |= {"source": "text", "text": text}
    return dataclasses.replace(data, **changes)
