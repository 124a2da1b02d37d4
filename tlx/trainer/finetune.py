"""Fine-tuning: `tlx.finetune`, from a base model and labelled records to a model of a task."""

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from tlx.adapt.config import AdaptConfig
from tlx.adapt.transfer import from_base
from tlx.base.config import from_dict
from tlx.base.errors import ConfigError
from tlx.base.place import BucketPath
from tlx.evaluation.answers import (
    Evaluation,
    Predictor,
    evaluate_task,
    make_predictor,
    predict_split,
    with_ceiling,
    with_interval,
)
from tlx.run import RunConfig
from tlx.run.assemble import Run, assemble, build_tokenizer, open_split
from tlx.run.config import TASKS
from tlx.run.program import Program
from tlx.text import Tokenizer
from tlx.trainer import outcome
from tlx.trainer.base_model import BaseModel, load_base
from tlx.trainer.config_input import ConfigLike, as_resumed, read_config, run_directory
from tlx.trainer.driver import (
    Evaluator,
    RunHandles,
    TrainerCallbacks,
    TrainerOptions,
    TrainingRequest,
    run_training,
)
from tlx.trainer.process import initialize_distributed, keep_compiled_programs
from tlx.trainer.reference import add_reference
from tlx.trainer.result import TrainingResult
from tlx.trainer.samples import Sampler
from tlx.trainer.seeds import summarize
from tlx.trainer.task_config import complete_task_config, get_task
from tlx.trainer.teacher_log_probs import with_teacher_log_probs
from tlx.training.state import State
from tlx.training.step import merge_params


def finetune(
    config: ConfigLike,
    *,
    base: str | os.PathLike | BucketPath | None = None,
    workdir: str | os.PathLike | BucketPath | None = None,
    overrides: Mapping[str, Any] | None = None,
    scratch: bool = False,
    seeds: int = 1,
    allow_change: Sequence[str] = (),
    allow: Sequence[str] = (),
) -> TrainingResult:
    """Train a model on a task with labels, or resume a run, as `tlx finetune` does.

        model, metrics = tlx.finetune("finetune/reviews", base="runs/mlm", workdir="runs/reviews")
        print(model.predict("a fine film"), metrics["validation"]["accuracy"])

    data.records.epochs sets train.steps, adapt.method the adapter modules, and the training records the names
    of the classes. The same call resumes what was interrupted.

    Args:
        config: a task's ConfigDict (values of None in `model` are as the base has them), a RunConfig
            (complete), a path or a name ("finetune/quickstart").
        base: run, checkpoint or Hugging Face directory to start from; None for fresh parameters.
        workdir: run directory; by default runs/NAME, NAME being config.name or the config file's.
        overrides: values by dotted key, {"train.steps": 40}; the key must exist.
        scratch: whether to take the base's architecture and tokenizer, but not its parameters.
        seeds: number of runs, from config.seed on, one after the other, in workdir/seed-N.
        allow_change: keys of the config, or groups of them, that may differ when the run is resumed.
        allow: packages outside tlx whose code the base's saved config may name.

    Returns:
        The trained model, sharing the trained arrays, and the scores; unpacks to the two.

    Raises:
        Preempted: the run was asked to stop and has saved.
        UserError: one of its subclasses for what the caller can mend, ConfigError above all.
    """
    values, name = read_config(config, overrides)
    options = TrainerOptions(workdir, base, allow_change, allow)
    return train_task(values, name, options, scratch, seeds)


def train_task(
    config: ConfigDict, name: str, options: TrainerOptions, scratch: bool = False, seeds: int = 1
) -> TrainingResult:
    """Fine-tune by the config of a file; the implementation of tlx.finetune and of the command line.

    Args:
        config: a task's, as its file has it, overrides applied.
        name: what the run is called where config.name is empty.
        options: how the training is started.
        scratch: whether to take the base's architecture, but not its parameters.
        seeds: number of runs.
    """
    values: Any = config  # the types of its attributes are unknown before it is parsed
    check_is_task(values)
    if scratch and options.base is None:
        raise ConfigError("--scratch takes the model of --from=DIR (base= in Python), which is missing")
    if seeds < 1:
        raise ConfigError(f"--seeds = {seeds} must be at least 1")
    name = values.name or name
    workdir = run_directory(options.workdir, name, values.objective.name)
    initialize_distributed()
    if options.ends_process:
        keep_compiled_programs()
    numbers = [values.seed + number for number in range(seeds)]
    folders = [workdir] if seeds == 1 else [workdir / f"seed-{seed}" for seed in numbers]
    adapt = from_dict(AdaptConfig, values.to_dict()["adapt"], "config.adapt")
    base = None
    if options.base is not None:
        base = load_base(options.base, options.allow, folders[0], adapt, values.tokenizer.add)
    requests = []
    # All configs are completed before the first run trains: a mistake in records is told at once.
    for seed, folder in zip(numbers, folders, strict=True):
        seeded = as_resumed({**values.to_dict(), "seed": seed}, folder)
        completed = complete_task_config(seeded, base, scratch, folder)
        completed = dataclasses.replace(completed, name=completed.name or name)
        requests.append(TrainingRequest(completed, folder, options))
    build = _Builder(None if scratch else base, base)
    callbacks = TrainerCallbacks(_make_evaluator, _final_evaluation, _final_metrics, _report, _make_sampler)
    for request in requests[:-1]:
        # The result is dropped: models of several seeds need not fit the devices together.
        run_training(request, callbacks, build)
    result = run_training(requests[-1], callbacks, build)
    if seeds == 1:
        return result
    metrics: dict[str, Any] = {}
    if jax.process_index() == 0 and values.eval.final:
        metrics = summarize(workdir, numbers)
    return TrainingResult(result.model, metrics, workdir)


def check_is_task(config: Any) -> None:
    """Raise ConfigError where a ConfigDict is of no task; a name outside tlx ("pkg:attr") may be one."""
    name = config.objective.name
    if name not in TASKS and ":" not in name:
        raise ConfigError(f"objective.name = {name!r} is no task; tasks are {', '.join(TASKS)}")


def label_ids(config: RunConfig, tokenizer: Tokenizer) -> list[list[int]]:
    """Return the ids of the names of a task's labels, from which a prompt's vectors start.

    Raises:
        ConfigError: The task has no labels, or one without ids.
    """
    names = [name for name in getattr(config.objective, "labels", ()) if name]
    ids = [tokenizer.encode(name) for name in names]
    if config.adapt.method != "prompt" or not ids or not all(ids):
        raise ConfigError(
            f"adapt.prompt_init = 'labels' needs adapt.method = 'prompt' (it is {config.adapt.method!r}) and a task "
            f"with names of labels (objective.name = {config.objective.name!r} has {tuple(names)})"
        )
    return ids


class _Builder:
    """Assembles runs of one base; those that differ only in their seed share a compiled program.

    `start` is the model whose parameters they start from, `known` the one whose tokenizer they have.
    """

    def __init__(self, start: BaseModel | None, known: BaseModel | None):
        self._start = start
        self._known = known
        self._compiled: tuple[RunConfig, str, Program] | None = None

    def __call__(self, config: RunConfig, tokenizer: Tokenizer | None) -> Run:
        if tokenizer is None:
            tokenizer = build_tokenizer(config) if self._known is None else self._known.tokenizer
        unseeded = dataclasses.replace(config, seed=0)
        program = None
        if self._compiled is not None and self._compiled[:2] == (unseeded, tokenizer.hash):
            program = self._compiled[2]
        run = assemble(config, tokenizer, self._base_params(config), program)
        self._compiled = (unseeded, tokenizer.hash, run.program)
        add_reference(run, run.train, run.validation)
        return with_teacher_log_probs(run)

    def _base_params(self, config: RunConfig) -> Callable[[Any], Any] | None:
        start = self._start
        if start is None:
            return None
        task = config.objective.name
        tokenizer = start.tokenizer
        prompt = label_ids(config, tokenizer) if config.adapt.prompt_init == "labels" else ()
        fresh = config.adapt.reinit_layers
        return lambda like: from_base(like, start.params, task, tokenizer.vocab, config.seed, prompt, fresh)


def _make_evaluator(run: Run) -> Evaluator:
    """Loss and scores on the validation records, or on those of the first batches."""
    predictor = _predictor(run)

    def evaluator(state: State, num_batches: int | None) -> dict[str, float]:
        figures = _evaluate(run, predictor, state, run.validation, num_batches).figures
        return {name: value for name, value in figures.items() if "/" not in name}  # no single classes

    return evaluator


def _final_evaluation(run: Run, evaluator: Evaluator, state: State) -> dict[str, Evaluation]:
    """Evaluate on all validation records, and on the test records where there are some."""
    del evaluator
    predictor = _predictor(run)
    splits = {"validation": run.validation}
    if run.config.data.records.tested:
        splits["test"] = open_split(run.config, run.tokenizer, "test")
        add_reference(run, splits["test"])
    spec: Any = run.spec
    evaluations = {}
    for name, split in splits.items():
        records: Any = split
        evaluation = _evaluate(run, predictor, state, records)
        evaluations[name] = with_ceiling(evaluation, get_task(run.config), spec, records)
    return evaluations


def _make_sampler(run: Run) -> Sampler | None:
    """Predictions for the first validation records, as many as log.samples says."""
    log = run.config.log
    if not log.samples:
        return None
    predictor = _predictor(run)
    num_batches = -(-log.samples // run.config.train.batch_size)

    def sampler(state: State) -> list[dict[str, str]]:
        predictions = predict_split(*_arguments(run, predictor, state, run.validation, num_batches))
        pairs = list(zip(predictions.records, predictions.answers, strict=True))[: log.samples]
        return [
            {"prompt": outcome.to_json(dict(record.values)), "text": outcome.to_json(answer)}
            for record, answer in pairs
        ]

    return sampler


def _final_metrics(evaluations: Mapping[str, Evaluation]) -> dict[str, Any]:
    return {split: with_interval(evaluation) for split, evaluation in evaluations.items()}


def _predictor(run: Run) -> Predictor:
    return _compiled_predictor(run.module, NamedSharding(run.mesh, PartitionSpec()))


@functools.lru_cache(maxsize=2)
def _compiled_predictor(module: Any, replicated: NamedSharding) -> Predictor:
    """One predictor for all evaluations of a run, and of runs of other seeds."""
    return make_predictor(module, replicated)


def _evaluate(
    run: Run, predictor: Predictor, state: State, split: Any, num_batches: int | None = None
) -> Evaluation:
    return evaluate_task(*_arguments(run, predictor, state, split, num_batches))


def _arguments(
    run: Run, predictor: Predictor, state: State, split: Any, num_batches: int | None
) -> tuple[Any, ...]:
    """Return the arguments of evaluate_task and of predict_split."""
    params = merge_params(state.params, state.frozen)
    rows = run.local_row_indices
    return predictor, params, get_task(run.config), run.spec, split, rows, run.to_devices, num_batches


def _report(
    run: Run,
    handles: RunHandles,
    result: TrainingResult,
    final: Mapping[str, Evaluation] | None,
    peak: float,
) -> None:
    """Write and print scores and predictions."""
    if final:
        handles.journal.metrics(result.model.step, final["validation"].figures, kind="final")
        with handles.clock("summary"):
            outcome.show(run, handles.workdir, final, result.metrics)
