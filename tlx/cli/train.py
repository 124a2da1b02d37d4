"""Pretrain a model, or go on with a run: the same command resumes what was interrupted.

    tlx train --config=configs/quickstart.py
    tlx train --config=quickstart:mlm --workdir=runs/mlm --config.train.steps=3000
    tlx train --config=configs/mine.py --from=bert-base-uncased/     go on from its model, with its tokenizer

The run's directory holds run.json, metrics.jsonl, events.jsonl, tokenizer/ and checkpoints/.
"""

import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax

from tlx.adapt.transfer import from_base
from tlx.base import tree
from tlx.base.config import to_dict
from tlx.base.errors import ConfigError
from tlx.cli import flags
from tlx.cli.flags import training_parser
from tlx.evaluation.likelihood import evaluate, make_scorer
from tlx.run import RunConfig
from tlx.run.assemble import Run, assemble
from tlx.run.checks import resolve
from tlx.tasks import TABLE as TASKS
from tlx.text import Tokenizer
from tlx.trainer import driver, summary
from tlx.trainer.base_model import BaseModel, cache_tokenizer, load_base
from tlx.training import carry
from tlx.training.state import State
from tlx.training.step import merge_params


def main(argv: list[str]) -> int:
    """`tlx train`: exit 0 done, 42 stopped and saved, else the table in tlx/base/errors.py."""
    parser = training_parser("train", __doc__)
    parser.add_argument(
        "--from", dest="base", metavar="DIR", help="run or Hugging Face directory whose model goes on"
    )
    parser.add_argument("--allow", action="append", default=[], metavar="PACKAGE", help="as tlx generate")
    options = flags.parse(parser, argv)
    config, build = resolve(options.config), assemble
    if config.objective.name in TASKS:
        raise ConfigError(f"{config.objective.name} is a task with labels; use: tlx finetune")
    driver.begin()
    if options.base is not None:
        base = load_base(options.base, options.allow)
        config, build = _continued(options.config.to_dict(), base), partial(_build, base)
    verb = driver.Verb(_evaluator, _final, _end)
    driver.carry_out(verb, [driver.job(config, options)], options, build)
    return 0


def _continued(values: dict[str, Any], base: BaseModel) -> RunConfig:
    """The config with the model and the tokenizer of the base; how it is run stays as configured."""
    own = {name: values["model"][name] for name in ("execution", "dtype")}
    values["model"] = to_dict(base.config.model) | own
    values["tokenizer"] = to_dict(base.config.tokenizer) | {"path": cache_tokenizer(base.tokenizer)}
    return resolve(values | {"base": to_dict(base.record)})


def _build(base: BaseModel, config: RunConfig, tokenizer: Tokenizer | None) -> Run:
    """The run, which begins with all of the base's parameters that it has a place for."""
    heads = {path: leaf for path, leaf in tree.flatten(base.params).items() if path.startswith("heads/")}

    def head(path: str, leaf: jax.Array) -> jax.Array:
        if path not in heads or heads[path].shape != leaf.shape:
            return leaf
        values = heads[path].astype(leaf.dtype)
        return jax.make_array_from_callback(leaf.shape, leaf.sharding, values.__getitem__)

    def begin(like: Any) -> Any:
        taken = from_base(like, base.params, config.objective.name, base.tokenizer.vocab, config.seed)
        return tree.map_with_path(head, taken)

    return assemble(config, tokenizer or base.tokenizer, begin)


def _evaluator(run: Run) -> driver.Evaluator:
    """Means over the validation split, or its first batches."""
    scorer, rows = make_scorer(run.module, run.tokenizer.num_bytes), run.config.train.batch_size

    def evaluator(state: State, num_batches: int | None) -> dict[str, float]:
        memory = run.state.carry
        if memory is not None:
            shardings = jax.tree.map(lambda leaf: leaf.sharding, memory)
            memory = jax.jit(lambda: carry.initial_carry(run.module, rows), out_shardings=shardings)()
        batches = itertools.islice(run.validation.epoch_batches(run.local_row_indices), num_batches)
        return evaluate(scorer, merge_params(state.params, state.frozen), batches, memory, run.to_devices)

    return evaluator


def _final(run: Run, evaluator: driver.Evaluator, state: State) -> dict[str, float]:
    return dict(evaluator(state, run.config.eval.final_batches))


def _end(
    run: Run, desk: driver.Desk, figures: dict[str, float] | None, peak: float, config_words: Sequence[str]
) -> None:
    """The last figures, written down and shown, and what to type next."""
    if figures:
        desk.journal.metrics(run.config.train.steps, figures, kind="final")
        with desk.clock("summary"):
            summary.show(run, desk.workdir, figures)
    summary.show_times(desk.clock, peak)
    summary.show_next(run, desk.workdir, config_words)
