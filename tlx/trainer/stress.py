"""Stress tests of a fine-tuned model: the records that they need, and the model's predictions for them."""

import json
import os
from collections.abc import Sequence
from typing import Any

from tlx.api.loaded_model import LoadedModel
from tlx.base import place as places
from tlx.base.config import from_dict
from tlx.base.errors import ConfigError
from tlx.data.readers import Record, read_files
from tlx.data.records import RecordPipeline, read_records
from tlx.evaluation import stress
from tlx.evaluation.answers import make_predictor, predict_split
from tlx.evaluation.stress import StressConfig, StressRow
from tlx.run import RunConfig
from tlx.run.assemble import open_split
from tlx.run.spec import spec_of
from tlx.tasks.shared.base import Prediction, Task
from tlx.trainer.evaluate import EvaluationRequest, records_of_request
from tlx.trainer.task_config import get_task, is_task


def read_settings(path: str | os.PathLike) -> StressConfig:
    """Read the settings of stress tests from a JSON file; "" are the defaults.

    Raises:
        ConfigError: The file cannot be read, is no JSON object, or a key or a value is not legal.
    """
    if not path:
        return StressConfig()
    try:
        values = json.loads(places.parse(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"--stress = {path!r} is no JSON file that can be read: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"--stress = {path!r} must hold a JSON object of settings, such as {{}}")
    settings = from_dict(StressConfig, values, "stress")
    settings.validate()
    return settings


def run_stress_tests(
    model: LoadedModel, request: EvaluationRequest, settings: StressConfig
) -> list[StressRow]:
    """Run the stress tests on the records of a split, or on those of `request.data`.

    Args:
        model: A fine-tuned model of single classes.
        request: On what; all of its records are used.
        settings: Lists and files of the tests.

    Returns:
        A row for each figure.

    Raises:
        ConfigError: The model is of another kind, or the request has --batches.
        DataError: Records cannot be read or used.
    """
    config = model.config
    if not is_task(config):
        raise ConfigError(f"--stress is for fine-tuned models, this is {config.objective.name}")
    stress.check(config.objective)
    if request.batches is not None:
        raise ConfigError("--batches is not for stress tests, which read all records")
    task = get_task(config)
    opened, split = records_of_request(config, request)
    pipeline: Any = open_split(opened, model.tokenizer, split, request.batch_size or 0)
    spec: Any = spec_of(config, model.tokenizer)
    module: Any = model.module
    predictor = make_predictor(module)

    def predict(records: Sequence[Record], labelled: bool) -> list[Prediction]:
        items = task.prepare(records, model.tokenizer, spec, labelled)
        batches = RecordPipeline(
            config.data, records, items, task, spec, pipeline.batch_size, config.seed, "stress"
        )
        return predict_split(predictor, model.params, task, spec, batches).answers

    pairs = len(task.text_columns(config.objective)) > 1
    records = stress.Records(
        train=_training_records(config, task) if pairs else (),
        evaluated=pipeline.records,
        contrast=_read(settings.contrast, "contrast", config),
        outside=_read(settings.outside, "outside", config),
        harmful={glob: _read(glob, "harmful", config) for glob in settings.harmful},
    )
    return stress.stress(predict, task, config.objective, records, settings)


def _training_records(config: RunConfig, task: Task) -> list[Record]:
    def check(record: Record) -> None:
        task.check_record(config.objective, record)

    return read_records(config.data.records, "train", config.seed, config.data.bad_records, check)


def _read(glob: str, field: str, config: RunConfig) -> list[Record]:
    """Return the records of a glob, in the format of the run's own; "" is none."""
    if not glob:
        return []
    return read_files((glob,), config.data.records, f"stress.{field}", config.data.bad_records)
