"""Pretraining: `tlx.train`, from a config to a trained language model."""

import dataclasses
import itertools
import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
from ml_collections import ConfigDict

from tlx.adapt.transfer import from_base
from tlx.base import tree
from tlx.base.config import to_dict
from tlx.base.errors import ConfigError
from tlx.base.place import BucketPath, Place
from tlx.data.text_bytes import bytes_of_ids
from tlx.evaluation.likelihood import evaluate, make_scorer
from tlx.run import RunConfig
from tlx.run.assemble import Run, assemble
from tlx.run.checks import resolve
from tlx.run.config import TASKS
from tlx.text import Tokenizer
from tlx.trainer import summary
from tlx.trainer.base_model import BaseModel, cache_tokenizer, load_base, parameter_dtypes
from tlx.trainer.config_input import ConfigLike, as_resumed, read_config, run_directory
from tlx.trainer.driver import (
    Build,
    Evaluator,
    RunHandles,
    TrainerCallbacks,
    TrainerOptions,
    TrainingRequest,
    run_training,
)
from tlx.trainer.process import initialize_distributed, keep_compiled_programs
from tlx.trainer.result import TrainingResult
from tlx.trainer.samples import make_sampler
from tlx.trainer.task_config import base_frame
from tlx.training import carry
from tlx.training.state import State
from tlx.training.step import merge_params


def train(
    config: ConfigLike,
    *,
    workdir: str | os.PathLike | BucketPath | None = None,
    overrides: Mapping[str, Any] | None = None,
    base: str | os.PathLike | BucketPath | None = None,
    allow_change: Sequence[str] = (),
    allow: Sequence[str] = (),
    profile: bool = False,
    step: int | str | None = None,
) -> TrainingResult:
    """Pretrain a model, or resume a run, as `tlx train` does.

        model, metrics = tlx.train("quickstart:tiny", workdir="runs/x", overrides={"train.steps": 40})
        print(model.generate("def main("), metrics["loss"])

    The same call resumes what was interrupted: by a signal, by a notebook's interrupt of its kernel, by a
    kill. Data workers (data.workers) import the main module: where there are some, a script calls this under
    `if __name__ == "__main__"`.

    Args:
        config: a ConfigDict, a RunConfig, a path ("configs/mine.py:arg") or a name ("quickstart:mlm:tiny").
        workdir: run directory; by default runs/NAME, NAME being config.name or the config file's.
        overrides: values by dotted key, {"train.steps": 40}; the key must exist.
        base: run, checkpoint or Hugging Face directory whose model is trained further, with its tokenizer.
        allow_change: keys of the config, or groups of them, that may differ when the run is resumed.
        allow: packages outside tlx whose code the base's saved config may name.
        profile: whether to write a JAX trace of train.profile_steps to workdir/profile.
        step: checkpoint that the run goes on from, by number or "best"; later ones are set aside. None: the
            newest sound one.

    Returns:
        The trained model, sharing the trained arrays, and the final metrics; unpacks to the two.

    Raises:
        Preempted: the run was asked to stop and has saved.
        UserError: one of its subclasses for what the caller can mend, ConfigError above all.
    """
    values, name = read_config(config, overrides)
    options = TrainerOptions(workdir, base, allow_change, allow, profile, step)
    return pretrain(values, name, options)


def pretrain(config: ConfigDict, name: str, options: TrainerOptions) -> TrainingResult:
    """Pretrain a model by the config of a file; the implementation of tlx.train and of the command line.

    Args:
        config: as its file has it, overrides applied.
        name: what the run is called where config.name is empty.
        options: how the training is started.
    """
    resolved = resolve(config, allow=None)
    if resolved.objective.name in TASKS:
        raise ConfigError(
            f"{resolved.objective.name} is a task with labels; use: tlx finetune (tlx.finetune)"
        )
    workdir = run_directory(options.workdir, resolved.name or name, resolved.objective.name)
    values = as_resumed(config.to_dict(), workdir)
    resolved = resolve(values, allow=None)
    initialize_distributed()
    if options.ends_process:
        keep_compiled_programs()
    build: Build = assemble
    if options.base is not None:
        base = load_base(options.base, options.allow, workdir, resolved.adapt, resolved.tokenizer.add)
        resolved = _with_base(values, base, workdir)
        build = partial(_build, base)
    resolved = dataclasses.replace(resolved, name=resolved.name or name)
    callbacks = TrainerCallbacks(_make_evaluator, _final_evaluation, dict, _report, make_sampler)
    return run_training(TrainingRequest(resolved, workdir, options), callbacks, build)


def _with_base(values: dict[str, Any], base: BaseModel, workdir: Place) -> RunConfig:
    """Return the config with the model and the tokenizer of the base; how it is run stays as configured."""
    execution = {name: values["model"][name] for name in ("execution", "dtype")}
    # The default of a config leaves the choice: a run that has begun keeps its dtype, in earlier versions the base's.
    chosen = values["model"]["param_dtype"]
    dtypes = parameter_dtypes(base, None if chosen == "float32" else chosen, workdir)
    execution["param_dtype"] = dtypes.trained
    record = base.record
    frame = values["frame"]
    if values["adapt"]["method"] != "full":
        # Its matrices stay as they are stored, and it writes in the form that it was trained with.
        record = dataclasses.replace(record, param_dtype=dtypes.frozen)
        frame = base_frame(values, base, workdir)
    return resolve(
        {
            **values,
            "frame": frame,
            "model": {**to_dict(base.config.model), **execution},
            "tokenizer": {
                **to_dict(base.config.tokenizer),
                "path": cache_tokenizer(base.tokenizer),
                "add": values["tokenizer"].get("add", ()),
            },
            "base": to_dict(record),
        },
        allow=None,
    )


def _build(base: BaseModel, config: RunConfig, tokenizer: Tokenizer | None) -> Run:
    """Assemble a run that starts from all parameters of the base that it has too."""
    heads = {path: leaf for path, leaf in tree.flatten(base.params).items() if path.startswith("heads/")}

    def head(path: str, leaf: jax.Array) -> jax.Array:
        if path not in heads or heads[path].shape != leaf.shape:
            return leaf
        values = heads[path].astype(leaf.dtype)
        return jax.make_array_from_callback(leaf.shape, leaf.sharding, values.__getitem__)

    def from_base_params(like: Any) -> Any:
        taken = from_base(like, base.params, config.objective.name, base.tokenizer.vocab, config.seed)
        return tree.map_with_path(head, taken)

    return assemble(config, tokenizer or base.tokenizer, from_base_params)


def _make_evaluator(run: Run) -> Evaluator:
    """Means over the validation split, or its first batches."""
    validation: Any = run.validation  # a Pipeline: records have no cache
    scorer = make_scorer(run.module, bytes_of_ids(validation.caches, run.tokenizer))
    rows = run.config.train.batch_size

    def evaluator(state: State, num_batches: int | None) -> dict[str, float]:
        memory = run.state.carry
        if memory is not None:
            shardings = jax.tree.map(lambda leaf: leaf.sharding, memory)
            memory = jax.jit(lambda: carry.initial_carry(run.module, rows), out_shardings=shardings)()
        batches = itertools.islice(run.validation.epoch_batches(run.local_row_indices), num_batches)
        return evaluate(scorer, merge_params(state.params, state.frozen), batches, memory, run.to_devices)

    return evaluator


def _final_evaluation(run: Run, evaluator: Evaluator, state: State) -> dict[str, float]:
    return dict(evaluator(state, run.config.eval.final_batches))


def _report(
    run: Run, handles: RunHandles, result: TrainingResult, final: dict[str, float] | None, peak: float
) -> None:
    """Write and print the final metrics, beside baselines, and where the time went."""
    if final:
        handles.journal.metrics(result.model.step, final, kind="final")
        with handles.clock("summary"):
            summary.show(run, handles.workdir, final, result.model)
    summary.show_times(handles.clock, peak)
