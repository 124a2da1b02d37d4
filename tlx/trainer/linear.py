"""The linear baseline of a task: a classifier or a reward model of tf-idf weights on the same records."""

import functools
import os
from typing import Any

from ml_collections import ConfigDict

from tlx.base.place import BucketPath
from tlx.data.records import read_records
from tlx.evaluation.answers import with_interval
from tlx.evaluation.linear import check as check_task
from tlx.evaluation.linear import linear_scores
from tlx.run.config import parse_config
from tlx.trainer import outcome
from tlx.trainer.config_input import run_directory
from tlx.trainer.task_config import get_task


def train_linear(
    config: ConfigDict, name: str, unit: str, workdir: str | os.PathLike | BucketPath | None
) -> dict[str, Any]:
    """Fit a linear classifier, and write its scores and predictions to the run directory.

    Args:
        config: a task's, as its file has it.
        name: what the run is called where config.name is empty.
        unit: what the weights are of, "words", "characters" or, of reward models, "length".
        workdir: run directory; None for runs/NAME-linear.

    Returns:
        The scores of each split, as scores.json has them.
    """
    parsed_config = parse_config(config, allow=None)
    check_task(parsed_config.objective, unit)
    records = parsed_config.data.records
    seed = parsed_config.seed
    policy = parsed_config.data.bad_records
    task = get_task(parsed_config)
    check = functools.partial(task.check_record, parsed_config.objective)
    train = read_records(records, "train", seed, policy, check)
    objective = task.infer_labels(parsed_config.objective, train)
    check = functools.partial(task.check_record, objective)
    evaluations = {}
    for split in ("validation", "test") if records.tested else ("validation",):
        evaluated = read_records(records, split, seed, policy, check)
        evaluations[split] = linear_scores(task, objective, train, evaluated, unit)
    folder = run_directory(workdir, f"{parsed_config.name or name}-linear")
    folder.mkdir(parents=True, exist_ok=True)
    metrics = {split: with_interval(evaluation) for split, evaluation in evaluations.items()}
    outcome.write_scores(folder, evaluations, metrics)
    return metrics
