"""Scores of a run's checkpoints on tasks: the columns TASK/METRIC of a ladder's table, which `downstream` reads.

    python -m tlx.scaling.task_scores WORKDIR SETTINGS

`tlx scale run` starts this for every run that has ended. SETTINGS is a JSON file {"tasks", "steps"}; the scores are
written to WORKDIR/task_scores.json, {step: {column: value}}, when all of them are there.

A task is a config of a few-shot evaluation (configs/evaluate; tlx/evaluation/few_shot.py) or, as "harness:NAME", one
of the lm-evaluation-harness.
"""

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tlx.api.harness_tasks import check_task_names, import_lm_eval
from tlx.base import place as places
from tlx.base.config import from_dict, to_dict
from tlx.base.config_files import load_config, run_name
from tlx.base.errors import ConfigError
from tlx.base.files import read_json, write_json
from tlx.base.place import Place

SCORES = "task_scores.json"

_HARNESS = "harness:"


def task_name(task: str) -> str:
    """Return the name of a task's columns: arc_easy for "harness:arc_easy", copa-tiny for evaluate/copa:tiny."""
    if task.startswith(_HARNESS):
        return task.removeprefix(_HARNESS)
    return run_name(task).removeprefix("evaluate-")


def read_tasks(tasks: Sequence[str]) -> dict[str, Any]:
    """Read the configs of tasks, so that a plan holds all that evaluates them.

    Args:
        tasks: Configs as FILE[:ARG] or by their packaged name, and tasks of the harness as harness:NAME.

    Returns:
        {name of the columns: plain few-shot config, or "harness:NAME"}.

    Raises:
        ConfigError: A config is not one of a few-shot evaluation, two tasks have one name, or the harness has no such
            task (asked where it is installed).
    """
    # Brings the readers of records: only ladders with tasks come here.
    from tlx.evaluation.few_shot import FewShotConfig

    settings: dict[str, Any] = {}
    for task in tasks:
        name = task_name(task)
        if not name:
            raise ConfigError(
                f"ladder.tasks = {tuple(tasks)}: {task!r} names no task, as 'harness:arc_easy' does"
            )
        if name in settings:
            raise ConfigError(f"ladder.tasks = {tuple(tasks)}: two tasks are called {name!r}; one is enough")
        if task.startswith(_HARNESS):
            settings[name] = task
            continue
        try:
            config = from_dict(FewShotConfig, load_config(task).to_dict(), task)
        except ConfigError as error:
            raise ConfigError(
                f"ladder.tasks: {task!r} is no config of a few-shot evaluation, as those in configs/evaluate: {error}"
            ) from error
        config.objective.validate()
        settings[name] = to_dict(config)
    of_harness = [name for name, task in settings.items() if isinstance(task, str)]
    # Where runs are scored it may be installed, even if it is not here.
    if of_harness and importlib.util.find_spec("lm_eval") is not None:
        check_task_names("ladder.tasks", of_harness)
    return settings


def read_scores(workdir: Place) -> dict[int, dict[str, float]]:
    """Return {step: {column: value}} of a run; nothing before its checkpoints are scored."""
    path = workdir / SCORES
    if not path.exists():
        return {}
    return {int(step): columns for step, columns in read_json(path).items()}


def has_scores(line: Mapping[str, Any], tasks: Mapping[str, Any]) -> bool:
    """Return whether a line of the ledger has a column of each task."""
    return all(any(column.startswith(f"{name}/") for column in line) for name in tasks)


def score(workdir: Place, tasks: Mapping[str, Any], steps: Sequence[int]) -> dict[int, dict[str, float]]:
    """Evaluate checkpoints of a run on tasks.

    Args:
        workdir: The run's directory.
        tasks: As of read_tasks.
        steps: Steps of the checkpoints.

    Returns:
        {step: {"TASK/METRIC": value}}.

    Raises:
        ConfigError: A config is not legal, or the harness is not installed.
        DataError: A checkpoint or records cannot be read.
    """
    # Brings JAX: the driver of a ladder imports this module for its names.
    from tlx.api.load import load

    by_step: dict[int, dict[str, float]] = {}
    for step in steps:
        model = load(workdir, step=step)
        columns: dict[str, float] = {}
        for name, task in tasks.items():
            figures = _harness_figures(model, task) if isinstance(task, str) else _figures(model, task)
            columns |= {f"{name}/{metric}": float(value) for metric, value in figures.items()}
        by_step[step] = columns
    return by_step


def _figures(model: Any, task: Mapping[str, Any]) -> dict[str, float]:
    """Metrics of a few-shot evaluation, and the mean probability of the right choice among the choices.

    The probability moves before the accuracy does: a model that is still at chance shows whether it learns.
    """
    from tlx.evaluation.few_shot import FewShotConfig, evaluate_few_shot
    from tlx.tasks.shared.labels import class_of

    config = from_dict(FewShotConfig, dict(task))
    length = model.config.model.position.max_positions or model.config.data.sequence_length
    evaluation = evaluate_few_shot(model, config, "validation", length)
    objective = config.objective
    right = [class_of(record, objective.label, objective.labels) for record in evaluation.records]
    values = np.array([answer[objective.normalization] for answer in evaluation.answers], float)
    shares = np.exp(values - values.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    probability = float(shares[np.arange(len(right)), right].mean())
    figures = {metric: value for metric, value in evaluation.figures.items() if metric != "shots"}
    return figures | {"probability": probability, "items": float(len(right))}


def _harness_figures(model: Any, task: str) -> dict[str, float]:
    """Metrics of a task of the lm-evaluation-harness, with its own number of examples."""
    lm_eval = import_lm_eval(task)
    from tlx.api.harness import HarnessModel

    name = task.removeprefix(_HARNESS)
    results = lm_eval.simple_evaluate(HarnessModel(model), tasks=[name])["results"][name]
    # Keys are "METRIC,FILTER".
    return {
        key.partition(",")[0]: value
        for key, value in results.items()
        if isinstance(value, float) and "_stderr" not in key
    }


def _main(workdir: str, settings: str) -> int:
    """Score the checkpoints that a file of settings names, and write the scores."""
    place = places.parse(workdir)
    asked = read_json(places.parse(settings))
    scores = score(place, asked["tasks"], asked["steps"])
    write_json(place / SCORES, {str(step): columns for step, columns in scores.items()})
    return 0


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
