"""The config of a fine-tuning, completed from the base model and the training records."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from tlx.adapt.config import AdaptConfig
from tlx.base.config import from_dict, to_dict
from tlx.base.errors import ConfigError
from tlx.base.place import Place
from tlx.data.records import read_records
from tlx.run import RunConfig
from tlx.run.assemble import build_tokenizer, open_split
from tlx.run.checks import resolve
from tlx.run.config import TASKS, get_objective, parse_config, without_nones
from tlx.run.spec import frame_of
from tlx.tasks.shared.base import Task, is_supervised
from tlx.tasks.shared.text_metrics import check_libraries
from tlx.trainer.base_model import BaseModel, cache_tokenizer, parameter_dtypes
from tlx.training.config import BaseConfig
from tlx.training.directory import read_run


def complete_task_config(
    values: Mapping[str, Any],
    base: BaseModel | None,
    scratch: bool = False,
    workdir: Place | None = None,
) -> RunConfig:
    """Return the config with what the base model and the training records determine.

    These are: the model (values of None are as the base has them) and the tokenizer, the adapter modules of
    adapt.method, the labels of the classes, and train.steps from data.records.epochs.

    Args:
        values: a task's config as nested dicts.
        base: the base model; None trains from fresh parameters.
        scratch: whether to take the base's architecture but not its parameters.
        workdir: run directory, whose run keeps its dtypes where there is one; None for a new run.

    Returns:
        The config, checked.

    Raises:
        ConfigError: a value is not usable, or adapt.method needs a base.
        DataError: records cannot be read.
    """
    values = dict(values)
    adapt = from_dict(AdaptConfig, values["adapt"], "config.adapt")
    if adapt.method != "full" and (base is None or scratch):
        raise ConfigError(
            f"adapt.method = {adapt.method!r} adapts a base model; give one by --from=DIR (base= in Python)"
        )
    values["model"] = {**values["model"], "adapters": to_dict(adapt.adapters)}
    if base is not None:
        dtypes = parameter_dtypes(base, values["model"].get("param_dtype"), workdir)
        own = without_nones({**values["model"], "param_dtype": dtypes.trained})
        values["model"] = _merge_values(_base_model_values(base), own)
        values["tokenizer"] = {
            **to_dict(base.config.tokenizer),
            "path": cache_tokenizer(base.tokenizer),
            "add": values["tokenizer"].get("add", ()),
        }
        record = dataclasses.replace(base.record, param_dtype="" if adapt.method == "full" else dtypes.frozen)
        values["base"] = to_dict(BaseConfig() if scratch else record)
    values["frame"] = base_frame(values, None if scratch else base, workdir)
    config = parse_config(values, allow=None)
    config.data.records.validate()
    check_libraries(config.objective)
    task = get_task(config)
    check = functools.partial(task.check_record, config.objective)
    records = read_records(config.data.records, "train", config.seed, config.data.bad_records, check)
    objective = task.infer_labels(config.objective, records)
    base_path = "" if base is None or scratch else base.record.path
    objective = task.with_base(objective, base_path, adapt)
    values["objective"] = to_dict(objective)
    if config.data.records.epochs:
        rows = _num_rows(parse_config(values, allow=None), len(records))
        steps = config.data.records.epochs * rows / config.train.batch_size
        values["train"] = {**to_dict(config.train), "steps": max(1, round(steps))}
    return resolve(values, allow=None)


def _base_model_values(base: BaseModel) -> dict[str, Any]:
    """Return the base's model config, with as many characters of a token as it was pretrained with."""
    values = to_dict(base.config.model)
    max_characters = getattr(base.config.objective, "max_characters", 0)
    if max_characters:
        values["recurrent"]["characters"]["max_characters"] = max_characters
    return values


def base_frame(values: Mapping[str, Any], base: BaseModel | None, workdir: Place | None) -> Any:
    """Return the form of the texts that the base model was trained with, as config.frame has it.

    A run that has begun keeps what it began with: None where that was before runs kept a frame.

    Args:
        values: config as nested dicts.
        base: the base model; None: `values` has the frame.
        workdir: run directory; None for a new run.

    Returns:
        The frame as a dict, or None.
    """
    saved = None if workdir is None else read_run(workdir)
    if saved is not None:
        return saved["config"].get("frame")
    if base is None:
        return values.get("frame")
    return to_dict(frame_of(base.config, base.tokenizer))


def is_task(config: RunConfig) -> bool:
    """Return whether a run is about a task with labels, not a self-supervised objective."""
    return get_objective(config).supervised


def get_task(config: RunConfig) -> Task:
    """Return the task that a run is about. Raises ConfigError for a self-supervised objective."""
    task = get_objective(config)
    if not is_supervised(task):
        raise ConfigError(
            f"objective.name = {config.objective.name!r} is no task; tasks are {', '.join(TASKS)}"
        )
    return task


def _num_rows(config: RunConfig, num_records: int) -> int:
    """Rows of one pass over the training records: fewer than records if packed, more if records are cut."""
    task = get_task(config)
    if not task.one_to_many and not task.packs(config.objective):
        return num_records
    return open_split(config, build_tokenizer(config), "train").num_windows


def _merge_values(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Nested values with changes on top; a group that is only in one of them is taken as it is."""
    merged = dict(values)
    for key, value in changes.items():
        if isinstance(value, dict) and key in merged:
            value = _merge_values(merged[key], value)
        merged[key] = value
    return merged
