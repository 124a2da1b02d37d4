"""Bits per byte and loss of a trained model on a text, by the objective it was trained with.

    tlx evaluate runs/quickstart                            its own validation text
    tlx evaluate runs/quickstart --data='books/**/*.txt'    all of some files
    tlx evaluate runs/quickstart --data=python --split=train
    tlx evaluate runs/quickstart --data=tfds:wiki40b/en --split=validation

    tlx evaluate runs/reviews --split=test                  a fine-tuned model on its own test records
    tlx evaluate runs/reviews --data=new.tsv --predictions=new.jsonl

    tlx evaluate runs/large --config=evaluate/sentence_polarity --config.objective.shots=4 \\
        --predictions=answers.jsonl                         no training: by likelihood, with 4 examples

    tlx evaluate runs/large --harness=hellaswag,arc_easy --shots=5     EleutherAI's harness
    tlx evaluate runs/chat --harness=arc_easy --shots=5 --chat         the same, in conversations

RUN is a run directory or one of its checkpoints. The text is tokenised once, with the run's own
tokenizer, into the cache folder. Records are read as the run's own were, or as --config says, which is one
of configs/evaluate; --predictions writes each with the model's answer.
"""

import argparse
import dataclasses
import itertools
import json

import tlx
from tlx.base.config import from_dict
from tlx.base.errors import ConfigError, one_of
from tlx.cli import flags, harness
from tlx.cli.generate import add_run
from tlx.data.config import DataConfig, TextConfig, TfdsConfig
from tlx.data.pipeline import Pipeline, build_pipeline
from tlx.data.sources import TABLE as SOURCES
from tlx.evaluation.answers import Evaluation, evaluate_task, make_predictor, with_interval
from tlx.evaluation.few_shot import FewShotConfig, FewShotData, evaluate_few_shot
from tlx.evaluation.likelihood import evaluate, make_scorer
from tlx.objectives import TABLE as OBJECTIVES
from tlx.objectives.shared.base import ObjectiveSpec
from tlx.run.assemble import open_split
from tlx.run.config import get_objective
from tlx.run.spec import spec_of
from tlx.tasks.shared.base import Task
from tlx.trainer import outcome


def main(argv: list[str]) -> int:
    """`tlx evaluate`: one figure a line, or JSON."""
    parser = flags.parser("evaluate", __doc__)
    add_run(parser)
    flags.add_config(parser, required=False)
    parser.add_argument("--data", metavar="GLOB|SOURCE", help="the run's own data by default")
    parser.add_argument("--column", default="text", help="field of .jsonl, .parquet or tfds with the text")
    parser.add_argument("--split", choices=("train", "validation", "test"), default="validation")
    parser.add_argument("--batches", type=int, help="at most so many batches")
    parser.add_argument(
        "--batch_size", "--batch-size", type=int, help="rows of a batch; the run's by default"
    )
    parser.add_argument("--predictions", metavar="FILE", help="of a fine-tuned model: a line a record")
    parser.add_argument("--json", action="store_true", help="print JSON")
    harness.add_options(parser)
    options = flags.parse(parser, argv)
    lm = tlx.load(options.run, step=options.step, dtype=options.dtype, allow=options.allow)
    if options.harness is not None:
        return harness.run(lm, options)
    if options.config is not None:
        return _few_shot(lm, options)
    if isinstance(get_objective(lm.config), Task):
        return _evaluate_task(lm, options)
    for flag, given in (("--split=test", options.split == "test"), ("--predictions", options.predictions)):
        if given:
            raise ConfigError(f"{flag} is for fine-tuned models, this is {lm.config.objective.name}")
    pipeline = open_text(lm, options)
    scorer = make_scorer(lm.module, lm.tokenizer.num_bytes)
    batches = itertools.islice(pipeline.epoch_batches(), options.batches)
    figures = evaluate(scorer, lm.params, batches, lm.module.initial_carry(pipeline.batch_size))
    if options.json:
        print(json.dumps({"run": str(options.run), "step": lm.step, **figures}, indent=2))
        return 0
    print(f"{options.run} at step {lm.step}, {lm.config.objective.name}")
    for name, value in figures.items():
        print(
            f"  {name:14} {value:,.4f}" if name not in ("targets", "bytes") else f"  {name:14} {value:,.0f}"
        )
    return 0


def _evaluate_task(lm: tlx.LoadedModel, options: argparse.Namespace) -> int:
    """Scores on the run's records of a split, or on all of some files."""
    config, split = lm.config, options.split
    if options.data is not None and config.data.records.sets:
        names = ", ".join(one.name for one in config.data.records.sets)
        raise ConfigError(f"--data: the run has several sets of records ({names}); give --split alone")
    if options.data is not None:
        files = dataclasses.replace(config.data.records, test=(options.data,))
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, records=files))
        split = "test"
    records = open_split(config, lm.tokenizer, split, options.batch_size or 0)
    spec, predictor = spec_of(config, lm.tokenizer), make_predictor(lm.module)
    rest = (None, lambda batch: batch, options.batches)
    found = evaluate_task(predictor, lm.params, get_objective(config), spec, records, *rest)
    return _told(lm, options, found, config.objective.name, options.data or split)


def _few_shot(lm: tlx.LoadedModel, options: argparse.Namespace) -> int:
    """Scores on records that the model was not trained on, by likelihood."""
    config, split = from_dict(FewShotConfig, options.config.to_dict()), options.split
    if options.data is not None:
        records = dataclasses.replace(config.data.records, test=(options.data,))
        if not config.objective.shots:
            records = dataclasses.replace(records, train=(options.data,))
        config, split = dataclasses.replace(config, data=FewShotData(records)), "test"
    for flag in ("batches", "batch_size"):
        if getattr(options, flag) is not None:
            raise ConfigError(f"--{flag} is not for prompts; --config.objective.limit=N takes N records")
    position = lm.config.model.position
    length = position.max_length if position.kind == "learned" else lm.config.data.sequence_length
    found = evaluate_few_shot(lm, config, split, length)
    return _told(lm, options, found, f"{options.config_name}, no update", options.data or split)


def _told(lm: tlx.LoadedModel, options: argparse.Namespace, found: Evaluation, what: str, split: str) -> int:
    """Figures on the standard output, predictions in their file."""
    figures = with_interval(found)
    if options.predictions:
        outcome.write_predictions(options.predictions, found)
    if options.json:
        print(json.dumps({"run": str(options.run), "step": lm.step, **figures}, indent=2))
    else:
        print(f"{options.run} at step {lm.step}, {what}")
        outcome.show_figures(split, figures)
    return 0


def open_text(lm: tlx.LoadedModel, options: argparse.Namespace) -> Pipeline:
    """The text that the options name, as examples of the model's objective."""
    config = lm.config
    data = chosen_data(config.data, options.data, options.column, options.split)
    for source in data.sources:
        SOURCES.load(source.source, allow=tuple(options.allow) if options.data is None else None)
    parts = OBJECTIVES.load(config.objective.name)
    spec = ObjectiveSpec.of(config.objective, data.sequence_length, lm.tokenizer, data.languages)
    batch_size = options.batch_size or config.train.batch_size
    if batch_size < 1:
        raise ConfigError(f"--batch_size = {batch_size} must be at least 1")
    return build_pipeline(
        data, lm.tokenizer, parts.example, spec, parts.reads(spec),
        batch_size=batch_size, seed=config.seed, split=options.split,
    )  # fmt: skip


def chosen_data(data: DataConfig, name: str | None, column: str, split: str) -> DataConfig:
    """The run's data, or in their place a source by its name or files by their glob."""
    if name is None:
        return data
    kind, _, rest = name.partition(":")
    changes: dict = {"mixture": (), "source": kind}
    if kind == "tfds":
        changes["tfds"] = TfdsConfig(name=rest, column=column)
    elif name not in SOURCES:
        if not any(mark in name for mark in "./*"):
            raise ConfigError(one_of("--data", name, [*SOURCES, "tfds:NAME"]) + "; files are given as a glob")
        text = TextConfig(files=(name,), validation_files=(name,), column=column)
        changes |= {"source": "text", "text": text}
    return dataclasses.replace(data, **changes)
