"""Train a model on a task with labels, from a pretrained one; the same command resumes.

    tlx finetune --config=configs/finetune/reviews.py --from=runs/mlm --config.data.records.train="('r.tsv',)"
    tlx finetune --config=C --from=bert-base-uncased/        a directory that save_pretrained wrote
    tlx finetune --config=C --from=runs/mlm --scratch        the same model from fresh parameters
    tlx finetune --config=C --from=runs/mlm --seeds=5        five runs: mean, spread, worst
    tlx finetune --config=C --linear=characters              no model: a linear one of tf-idf, to be beaten

The run's directory holds what a pretraining's does, and scores.json, predictions/SPLIT.jsonl (each record
with its answer) and, for classes, confusion_SPLIT.png of the validation and test records. With
--seeds it holds a run for each in seed-N, seeds.json and seeds.png; on GPU and TPU the runs are made in one
program where memory allows.
"""

import argparse
import dataclasses
import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from tlx.adapt.transfer import from_base
from tlx.base.errors import ConfigError, DeviceMemoryError
from tlx.cli import flags, seed_groups
from tlx.cli.flags import training_parser
from tlx.data.records import read_records
from tlx.evaluation.answers import Evaluation, Predictor, evaluate_task, make_predictor
from tlx.evaluation.linear import check as check_linear
from tlx.evaluation.linear import linear_scores
from tlx.run import RunConfig
from tlx.run.assemble import Run, assemble, build_tokenizer, open_split
from tlx.run.config import get_objective, parse_config
from tlx.run.program import Program
from tlx.tasks import TABLE as TASKS
from tlx.text import Tokenizer
from tlx.trainer import driver, outcome, seeds
from tlx.trainer.base_model import BaseModel, load_base
from tlx.trainer.task_config import completed
from tlx.training.state import State
from tlx.training.step import merge_params


def main(argv: list[str]) -> int:
    """`tlx finetune`: exit codes as `tlx train`."""
    parser = training_parser("finetune", __doc__)
    parser.add_argument(
        "--from", dest="base", metavar="DIR", help="run, checkpoint or Hugging Face directory"
    )
    parser.add_argument(
        "--seeds", type=int, default=1, help="runs, from the config's seed on, in WORKDIR/seed-N"
    )
    parser.add_argument("--scratch", action="store_true", help="take the model, not its parameters")
    parser.add_argument(
        "--linear", metavar="UNIT", help="a linear classifier of tf-idf weights of UNIT instead"
    )
    parser.add_argument("--allow", action="append", default=[], metavar="PACKAGE", help="as tlx generate")
    options = flags.parse(parser, argv)
    name = options.config.objective.name
    if name not in TASKS and ":" not in name:
        raise ConfigError(f"objective.name = {name!r} is no task; tasks are {', '.join(TASKS)}")
    if options.linear:
        return _linear(options)
    if options.scratch and options.base is None:
        raise ConfigError("--scratch takes the model of --from=DIR, which is missing")
    driver.begin()
    base = None if options.base is None else load_base(options.base, options.allow)
    if options.seeds < 1:
        raise ConfigError(f"--seeds = {options.seeds} must be at least 1")
    if options.seeds == 1:
        config = completed(options.config.to_dict(), base, options.scratch)
        _carry_out([[driver.job(config, options)]], options, base)
        return 0
    workdir = pathlib.Path(options.workdir or f"runs/{options.config.name or options.config_name}")
    numbers = [options.config.seed + number for number in range(options.seeds)]
    jobs = []
    for seed in numbers:
        config = completed(options.config.to_dict() | {"seed": seed}, base, options.scratch)
        jobs.append(driver.job(config, options, workdir / f"seed-{seed}"))
    _carry_out(seed_groups.groups(jobs), options, base)
    if jax.process_index() == 0 and options.config.eval.final:
        seeds.summarize(workdir, numbers)
    return 0


def _carry_out(
    groups: Sequence[Sequence[driver.Job]], options: argparse.Namespace, base: BaseModel | None
) -> None:
    """The runs, those of a group in one program."""
    build = _Builder(None if options.scratch else base, base)
    verb = driver.Verb(_evaluator, _final, _end)
    for group in groups:
        try:
            driver.carry_out(verb, group, options, build)
        except DeviceMemoryError as error:
            if len(group) == 1:
                raise
            print(f"{len(group)} runs in one program do not fit ({error}); one after the other")
            for job in group:
                driver.carry_out(verb, [job._replace(step=None)], options, build)


def _linear(options: argparse.Namespace) -> int:
    """The scores and predictions of a linear classifier, in WORKDIR."""
    config = parse_config(options.config)
    check_linear(config.objective, options.linear)
    if options.base is not None or options.scratch or options.seeds != 1:
        raise ConfigError("--linear has no base, and no seeds: leave out --from, --scratch and --seeds")
    records, seed = config.data.records, config.seed
    train, task = read_records(records, "train", seed), get_objective(config)
    objective = task.complete(config.objective, train)
    splits = ("validation", "test") if records.tested else ("validation",)
    found = {
        split: linear_scores(task, objective, train, read_records(records, split, seed), options.linear)
        for split in splits
    }
    workdir = pathlib.Path(options.workdir or f"runs/{config.name or options.config_name}-linear")
    workdir.mkdir(parents=True, exist_ok=True)
    outcome.write_scores(workdir, found)
    return 0


class _Builder:
    """Runs of one base. Those that differ in their seed alone share a program, which is compiled once.

    `start` is the model whose parameters they begin with, `known` the one that they are shaped as.
    """

    def __init__(self, start: BaseModel | None, known: BaseModel | None):
        self._start, self._known = start, known
        self._made: tuple[RunConfig, str, Program] | None = None

    def __call__(self, config: RunConfig, tokenizer: Tokenizer | None) -> Run:
        tokenizer = tokenizer or (self._known and self._known.tokenizer) or build_tokenizer(config)
        same = dataclasses.replace(config, seed=0)
        program = None
        if self._made is not None and self._made[:2] == (same, tokenizer.hash):
            program = self._made[2]
        run = assemble(config, tokenizer, self._begin(config), program)
        self._made = (same, tokenizer.hash, run.program)
        return run

    def _begin(self, config: RunConfig) -> Callable[[Any], Any] | None:
        start = self._start
        if start is None:
            return None
        task, vocab, seed = config.objective.name, start.tokenizer.vocab, config.seed
        return lambda like: from_base(like, start.params, task, vocab, seed)


def _evaluator(run: Run) -> driver.Evaluator:
    """Loss and scores on the validation records, or on those of the first batches."""
    predictor = _predictor(run)

    def evaluator(state: State, num_batches: int | None) -> dict[str, float]:
        figures = _evaluation(run, predictor, state, run.validation, num_batches).figures
        return {name: value for name, value in figures.items() if "/" not in name}  # no single classes

    return evaluator


def _final(run: Run, evaluator: driver.Evaluator, state: State) -> dict[str, Evaluation]:
    """All validation records, and the test records where there are some."""
    del evaluator
    predictor, splits = _predictor(run), {"validation": run.validation}
    if run.config.data.records.tested:
        splits["test"] = open_split(run.config, run.tokenizer, "test")
    return {name: _evaluation(run, predictor, state, split) for name, split in splits.items()}


def _predictor(run: Run) -> Predictor:
    return _compiled(run.module, NamedSharding(run.mesh, PartitionSpec()))


@functools.lru_cache(maxsize=2)
def _compiled(module: Any, whole: NamedSharding) -> Predictor:
    """One for all that a run, and runs of other seeds, evaluate."""
    return make_predictor(module, whole)


def _evaluation(
    run: Run, predictor: Predictor, state: State, split: Any, num_batches: int | None = None
) -> Evaluation:
    params = merge_params(state.params, state.frozen)
    rest = (split, run.local_row_indices, run.to_devices, num_batches)
    return evaluate_task(predictor, params, get_objective(run.config), run.spec, *rest)


def _end(
    run: Run, desk: driver.Desk, found: dict[str, Evaluation] | None, peak: float, words: Sequence[str]
) -> None:
    """Scores and predictions, written down and shown."""
    del words
    if found:
        desk.journal.metrics(run.config.train.steps, found["validation"].figures, kind="final")
        with desk.clock("summary"):
            outcome.show(run, desk.workdir, found)
    outcome.show_next(run, desk.workdir)
