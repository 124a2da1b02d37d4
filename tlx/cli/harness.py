"""`tlx evaluate RUN --harness=TASKS`: EleutherAI's lm-evaluation-harness on the loaded model."""

import argparse
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tlx.api.harness_tasks import check_task_names, import_lm_eval
from tlx.base import place as places
from tlx.base.files import atomic_open

if TYPE_CHECKING:
    from tlx.api.loaded_model import LoadedModel


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the harness."""
    group = parser.add_argument_group("the lm-evaluation-harness")
    group.add_argument("--harness", metavar="TASKS", help="names of its tasks, separated by commas")
    group.add_argument(
        "--shots", type=int, help="examples before each question; the task's own number by default"
    )
    group.add_argument("--limit", type=int, help="maximum number of questions of each task; all by default")
    group.add_argument(
        "--chat",
        nargs="?",
        const="",
        metavar="TEMPLATE",
        help="ask in conversations, with examples as turns, by the named chat template or the run's own",
    )
    group.add_argument("--tasks", metavar="FOLDER", help="folder of task files (yaml) that replace its own")


def run(model: "LoadedModel", options: argparse.Namespace) -> int:
    """Print the metrics of the harness's tasks; with --predictions, write each question with its answers."""
    lm_eval = import_lm_eval("--harness")
    from tlx.api.harness import HarnessModel

    folder = None if options.tasks is None else str(places.fetched_folder(places.as_named(options.tasks)))
    manager = lm_eval.tasks.TaskManager(include_path=folder, include_defaults=options.tasks is None)
    names = options.harness.split(",")
    check_task_names("--harness", names, manager)
    results = lm_eval.simple_evaluate(
        HarnessModel(model, template=options.chat or ""),
        tasks=names,
        apply_chat_template=options.chat is not None,
        fewshot_as_multiturn=options.chat is not None,
        num_fewshot=options.shots,
        limit=options.limit,
        task_manager=manager,
        log_samples=options.predictions is not None,
    )
    if options.predictions:
        with atomic_open(options.predictions) as handle:
            for task, samples in results["samples"].items():
                for sample in samples:
                    handle.write(json.dumps({"task": task, **sample}, ensure_ascii=False, default=str) + "\n")
    if options.json:
        figures = {"run": str(options.run), "step": model.step, "results": results["results"]}
        print(json.dumps(figures, indent=2, default=str))
        return 0
    print(f"{options.run} at step {model.step}, lm-eval {lm_eval.__version__}")
    for task, metrics in results["results"].items():
        num_questions = results["n-samples"][task]["effective"]
        print(f"\n{task}: {num_questions:,} questions, {results['n-shot'][task]} shots")
        _print_metrics(metrics)
    return 0


def _print_metrics(metrics: Mapping[str, Any]) -> None:
    """Print a task's metrics with their standard errors; keys are "METRIC,FILTER"."""
    for name, value in metrics.items():
        if isinstance(value, float) and "_stderr" not in name:
            metric, _, kind = name.partition(",")
            error = metrics.get(f"{metric}_stderr,{kind}")
            deviation = f"   +- {error:.4f}" if isinstance(error, float) else ""
            print(f"  {metric:20} {value:8.4f}{deviation}")
