"""Pretrain a model, or go on with a run: the same command resumes what was interrupted.

    tlx train --config=configs/quickstart.py
    tlx train --config=quickstart:mlm --workdir=runs/mlm --config.train.steps=3000

The run's directory holds run.json, metrics.jsonl, events.jsonl, tokenizer/ and checkpoints/.
"""

import itertools
from collections.abc import Sequence

import jax

from tlx.base.errors import ConfigError
from tlx.cli import flags, summary, training
from tlx.evaluate.likelihood import evaluate, make_scorer
from tlx.run import Run, resolve
from tlx.tasks import TABLE as TASKS
from tlx.train import carry
from tlx.train.state import State
from tlx.train.step import merged


def main(argv: list[str]) -> int:
    """`tlx train`: exit 0 done, 42 stopped and saved, else the table in tlx/base/errors.py."""
    options = flags.parse(training.parser("train", __doc__), argv)
    config = resolve(options.config)
    if config.objective.name in TASKS:
        raise ConfigError(f"{config.objective.name} is a task with labels; use: tlx finetune")
    training.begin()
    training.carry_out(training.Verb(_evaluator, _final, _end), config, options)
    return 0


def _evaluator(run: Run) -> training.Evaluator:
    """Means over the validation split, or its first batches."""
    scorer, rows = make_scorer(run.module, run.tokenizer.num_bytes), run.config.train.batch_size

    def evaluator(state: State, num_batches: int | None) -> dict[str, float]:
        memory = run.state.carry
        if memory is not None:
            shardings = jax.tree.map(lambda leaf: leaf.sharding, memory)
            memory = jax.jit(lambda: carry.initial_carry(run.module, rows), out_shardings=shardings)()
        batches = itertools.islice(run.validation.epoch_batches(run.rows), num_batches)
        return evaluate(scorer, merged(state.params, state.frozen), batches, memory, run.place)

    return evaluator


def _final(run: Run, evaluator: training.Evaluator, state: State) -> dict[str, float]:
    return dict(evaluator(state, run.config.eval.final_batches))


def _end(
    run: Run, desk: training.Desk, figures: dict[str, float] | None, peak: float, config_words: Sequence[str]
) -> None:
    """The last figures, written down and shown, and what to type next."""
    if figures:
        desk.journal.metrics(run.config.train.steps, figures, kind="final")
        with desk.clock("summary"):
            summary.show(run, desk.workdir, figures)
    summary.show_times(desk.clock, peak)
    summary.show_next(run, desk.workdir, config_words)
