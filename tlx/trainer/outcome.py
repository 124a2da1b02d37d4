"""How `tlx finetune` ends: scores with their interval, predictions next to them, what to type next."""

import json
import os
import pathlib
import shlex
from collections.abc import Mapping
from typing import Any

import numpy as np

from tlx.base.files import atomic_open, write_json
from tlx.evaluation.answers import Evaluation, with_interval
from tlx.run.assemble import Run
from tlx.run.config import get_objective


def show(run: Run, workdir: pathlib.Path, found: Mapping[str, Evaluation]) -> None:
    """Prints the scores of each split; writes scores.json, predictions/SPLIT.jsonl and the pictures."""
    write_scores(workdir, found)
    task = get_objective(run.config)
    for split, evaluation in found.items():
        if task.draw is not None:
            path = workdir / f"confusion_{split}.png"
            task.draw(evaluation.answers, evaluation.records, run.spec, path)


def write_scores(workdir: pathlib.Path, found: Mapping[str, Evaluation]) -> None:
    """Prints the scores of each split; writes scores.json and predictions/SPLIT.jsonl."""
    figures = {split: with_interval(evaluation) for split, evaluation in found.items()}
    write_json(workdir / "scores.json", figures)
    (workdir / "predictions").mkdir(exist_ok=True)
    for split, evaluation in found.items():
        show_figures(split, figures[split])
        write_predictions(workdir / "predictions" / f"{split}.jsonl", evaluation)


def write_predictions(path: str | os.PathLike, evaluation: Evaluation) -> None:
    """A line of JSON for each record: where it stands, what it says, what was answered."""
    with atomic_open(path) as handle:
        for record, answer in zip(evaluation.records, evaluation.answers, strict=True):
            line = {"where": record.where, "record": dict(record.values), "answer": answer}
            handle.write(json.dumps(line, ensure_ascii=False, default=_plain) + "\n")


def show_figures(split: str, figures: Mapping[str, Any]) -> None:
    """A line for each figure; the interval of the one that counts most."""
    main, (low, high) = figures["main"], figures["interval_95"]
    print(f"\n{split}: {figures['records']:,} records")
    for name, value in figures.items():
        if isinstance(value, float):
            interval = f"   {low:.4f} to {high:.4f} (95%, bootstrap)" if name == main else ""
            print(f"  {name:20} {value:8.4f}{interval}")


def show_next(run: Run, workdir: pathlib.Path) -> None:
    """Commands that go on from here."""
    inside = workdir.is_relative_to(pathlib.Path.cwd())
    place = str(workdir.relative_to(pathlib.Path.cwd()) if inside else workdir)
    columns = [name for name, _ in get_objective(run.config).texts(run.config.objective)]
    example = repr({name: "..." for name in columns}) if len(columns) > 1 else "'...'"
    call = f"import tlx; print(tlx.load({place!r}).predict({example}))"
    print("\nnext:")
    print(f"  less {shlex.quote(f'{place}/predictions/validation.jsonl')}   # each record with its answer")
    print(f"  python -c {shlex.quote(call)}")
    if run.config.objective.name == "chat":
        print(f"  tlx chat {shlex.quote(place)}")


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return str(value)
