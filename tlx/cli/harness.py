"""`tlx evaluate RUN --harness=TASKS`: EleutherAI's lm-evaluation-harness on the loaded model."""

import argparse
import json
from typing import TYPE_CHECKING

from tlx.base.errors import ConfigError
from tlx.base.files import atomic_open

if TYPE_CHECKING:
    from tlx.api.loaded_model import LoadedModel


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the harness."""
    group = parser.add_argument_group("the lm-evaluation-harness")
    group.add_argument("--harness", metavar="TASKS", help="names of its tasks, with commas between them")
    group.add_argument("--shots", type=int, help="examples before each question; the task's own by default")
    group.add_argument("--limit", type=int, help="questions of each task; all by default")
    group.add_argument(
        "--chat",
        nargs="?",
        const="",
        metavar="TEMPLATE",
        help="ask in conversations, examples as turns of them; by the run's own template, or the named one",
    )
    group.add_argument("--tasks", metavar="FOLDER", help="of task files (yaml), in place of its own")


def run(lm: "LoadedModel", options: argparse.Namespace) -> int:
    """Figures on the standard output, with --predictions each question with its answers in a file."""
    try:
        import lm_eval
        from lm_eval.tasks import TaskManager

        from tlx.api.harness import HarnessModel
    except ImportError as error:
        raise ConfigError(
            f"--harness needs the package lm-eval ({error}); install it with: pip install 'tlx-lm[harness]'"
        ) from error
    manager = TaskManager(include_path=options.tasks, include_defaults=options.tasks is None)
    names = options.harness.split(",")
    unknown = [name for name in names if not manager.match_tasks([name])]
    if unknown:
        raise ConfigError(f"--harness: lm-eval {lm_eval.__version__} has no task {unknown[0]!r}")
    found = lm_eval.simple_evaluate(
        HarnessModel(lm, template=options.chat or ""),
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
            for task, samples in found["samples"].items():
                for sample in samples:
                    handle.write(json.dumps({"task": task, **sample}, ensure_ascii=False, default=str) + "\n")
    if options.json:
        figures = {"run": str(options.run), "step": lm.step, "results": found["results"]}
        print(json.dumps(figures, indent=2, default=str))
        return 0
    print(f"{options.run} at step {lm.step}, lm-eval {lm_eval.__version__}")
    for task, figures in found["results"].items():
        print(f"\n{task}: {found['n-samples'][task]['effective']:,} questions, {found['n-shot'][task]} shots")
        for name, value in figures.items():
            if isinstance(value, float) and "_stderr" not in name:
                metric, _, kind = name.partition(",")
                error = figures.get(f"{metric}_stderr,{kind}")
                deviation = f"   +- {error:.4f}" if isinstance(error, float) else ""
                print(f"  {metric:20} {value:8.4f}{deviation}")
    return 0
