"""The end of a fine-tuning: scores with their interval, predictions beside them, the next commands."""

import json
import os
import shlex
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tlx.base import place as places
from tlx.base.files import atomic_open, write_json
from tlx.base.place import BucketPath, Place
from tlx.evaluation.answers import Evaluation
from tlx.run import RunConfig
from tlx.run.assemble import Run
from tlx.tasks import CHAT_TASKS
from tlx.tasks.preference import Preference
from tlx.tasks.reward import Reward
from tlx.trainer.config_input import shown_path
from tlx.trainer.task_config import get_task
from tlx.training.journal import read_lines

# Fields of tasks that name a column which predictions need beside the texts.
_LANGUAGES = ("language", "second_language", "target_language")


def show(
    run: Run,
    workdir: Place,
    evaluations: Mapping[str, Evaluation],
    metrics: Mapping[str, Mapping[str, Any]],
) -> None:
    """Print the scores of each split; write scores.json, predictions/SPLIT.jsonl and pictures.

    Args:
        run: the fine-tuned run.
        workdir: its directory.
        evaluations: by split.
        metrics: figures with their intervals, by split.
    """
    write_scores(workdir, evaluations, metrics)
    task = get_task(run.config)
    for split, evaluation in evaluations.items():
        with places.written_folder(workdir) as folder:
            task.draw(evaluation.answers, evaluation.records, run.spec, folder, split)


def write_scores(
    workdir: Place,
    evaluations: Mapping[str, Evaluation],
    metrics: Mapping[str, Mapping[str, Any]],
) -> None:
    """Print the scores of each split; write scores.json and predictions/SPLIT.jsonl.

    Args:
        workdir: run directory, which exists.
        evaluations: by split.
        metrics: figures with their intervals, by split.
    """
    write_json(workdir / "scores.json", metrics)
    (workdir / "predictions").mkdir(exist_ok=True)
    for split, evaluation in evaluations.items():
        show_figures(split, metrics[split])
        write_predictions(workdir / "predictions" / f"{split}.jsonl", evaluation)


def write_predictions(path: str | os.PathLike | BucketPath, evaluation: Evaluation) -> None:
    """Write a line of JSON for each record: its file and line, its columns, the prediction."""
    with atomic_open(places.parse(path)) as handle:
        for record, answer in zip(evaluation.records, evaluation.answers, strict=True):
            line = {"where": record.where, "record": dict(record.values), "answer": answer}
            handle.write(to_json(line) + "\n")


def to_json(value: Any) -> str:
    """Return a line of JSON; numpy's numbers and arrays as JSON has them."""
    return json.dumps(value, ensure_ascii=False, default=_plain)


def show_figures(split: str, figures: Mapping[str, Any]) -> None:
    """Print a line for each figure, with the interval of the primary metric."""
    main = figures["main"]
    low, high = figures["interval_95"]
    print(f"\n{split}: {figures['records']:,} records")
    for name, value in figures.items():
        if isinstance(value, float):
            interval = f"   {low:.4f} to {high:.4f} (95%, bootstrap)" if name == main else ""
            print(f"  {name:20} {value:8.4f}{interval}")


def show_next(config: RunConfig, workdir: Place) -> None:
    """Print commands that use the run."""
    path = shown_path(workdir)
    print("\nnext:")
    print(f"  less {shlex.quote(f'{path}/predictions/validation.jsonl')}   # each record with its answer")
    call = f"import tlx; print(tlx.load({path!r}).{_example_call(config, workdir)})"
    print(f"  python -c {shlex.quote(call)}")
    if config.objective.name in CHAT_TASKS and config.model.kind == "decoder":
        print(f"  tlx chat {shlex.quote(path)}")


def _example_call(config: RunConfig, workdir: Place) -> str:
    """Return a call of the method that uses a model of the task, with texts of a validation record."""
    objective = config.objective
    if isinstance(objective, Reward):
        return "reward('How are you?', ['Fine.', 'Go away.'])"
    if isinstance(objective, Preference) and not objective.prompt:
        # Its records are whole conversations, which a line has no room for.
        method = "chat" if config.model.kind == "decoder" else "generate"
        return f"{method}('How are you?')"
    columns = [name for name, _ in get_task(config).text_columns(objective)]
    columns += [name for field in _LANGUAGES if (name := getattr(objective, field, ""))]
    values = _first_record(workdir, columns)
    example = repr(values) if len(columns) > 1 else repr(next(iter(values.values()), "..."))
    return f"predict({example})"


def _first_record(workdir: Place, columns: Sequence[str]) -> dict[str, Any]:
    """Return the columns of a validation record, shortened; "..." for those that are no text, or not there."""
    values: Mapping[str, Any] = {}
    for line in read_lines(workdir / "predictions" / "validation.jsonl")[:1]:
        values = line["record"]
    texts = {name: values.get(name) for name in columns}
    return {
        name: textwrap.shorten(text, 60, placeholder="") or "..." if isinstance(text, str) else "..."
        for name, text in texts.items()
    }


def _plain(value: Any) -> Any:
    """A numpy value as JSON can hold it; anything else as text."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return str(value)
