r"""Bits per byte and loss of a trained model on a text, by the objective it was trained with.

    tlx evaluate runs/quickstart                            its own validation text
    tlx evaluate runs/quickstart --data='books/**/*.txt'    all of some files
    tlx evaluate runs/quickstart --data=python --split=train
    tlx evaluate runs/quickstart --data=tfds:wiki40b/en --split=validation

    tlx evaluate runs/reviews --split=test                  a fine-tuned model on its own test records
    tlx evaluate runs/reviews --data=new.tsv --predictions=new.jsonl

    tlx evaluate runs/entailment --stress                   is it right for the right reasons?
    tlx evaluate runs/entailment --stress=lists.json --split=test

    tlx evaluate runs/large --config=evaluate/sentence_polarity --config.objective.shots=4 \
        --predictions=answers.jsonl                         no training: by likelihood, with 4 examples

    tlx evaluate runs/large --harness=hellaswag,arc_easy --shots=5     EleutherAI's harness
    tlx evaluate runs/chat --harness=arc_easy --shots=5 --chat         the same, in conversations

RUN is a run directory or one of its checkpoints. The text is tokenised once, with the run's own
tokenizer, into the cache folder. Records are read as the run's own were, or as --config says, which is one
of configs/evaluate; --predictions writes each with the model's prediction. From Python: tlx.evaluate.

--stress tests a classifier: accuracy from one text of a pair alone, by a linear baseline and by the model; typos,
other spellings and negations; and, of files that FILE names, contrast sets ("contrast", "contrast_column"), records
unlike the training's ("outside") and lists of harmful records ("harmful", [GLOB, ...]). FILE is a JSON object, whose
other keys are "typo_fraction", "negations" and "paraphrases" ([[WORDS, WORDS], ...]) and "seed".
"""

import argparse
import json
from typing import TYPE_CHECKING, Any

from tlx.base.errors import ConfigError
from tlx.cli import flags, harness

if TYPE_CHECKING:
    from tlx.api.loaded_model import LoadedModel
    from tlx.trainer.evaluate import EvaluationResult


def main(argv: list[str]) -> int:
    """Run `tlx evaluate`: prints one figure a line, or JSON."""
    options = flags.parse(_parser(), argv)
    # After the parser: these load jax, which --help does not wait for.
    from tlx.api.load import load
    from tlx.trainer import evaluate

    model = load(
        options.run, step=options.step, dtype=options.dtype, allow=options.allow, params=options.params
    )
    if options.harness is not None:
        return harness.run(model, options)
    request = evaluate.EvaluationRequest(
        options.data, options.column, options.split, options.batches, options.batch_size
    )
    if options.stress is not None:
        return _print_stress(model, options, request)
    objective = model.config.objective.name
    if options.config is not None:
        result = evaluate.evaluate_prompts(model, options.config, request)
        return _print(model, options, result, f"{options.config_name}, no update")
    if options.predictions and not evaluate.has_labels(model):
        raise ConfigError(f"--predictions is for fine-tuned models, this is {objective}")
    return _print(model, options, evaluate.evaluate_model(model, request), objective)


def _parser() -> argparse.ArgumentParser:
    parser = flags.parser("evaluate", __doc__)
    flags.add_run(parser)
    flags.add_config(parser, required=False)
    parser.add_argument("--data", metavar="GLOB|SOURCE", help="the run's own data by default")
    parser.add_argument("--column", default="text", help="field of .jsonl, .parquet or tfds with the text")
    parser.add_argument("--split", choices=("train", "validation", "test"), default="validation")
    parser.add_argument("--batches", type=int, help="number of batches at most; all by default")
    parser.add_argument(
        "--batch_size", "--batch-size", type=int, help="rows of a batch; the run's by default"
    )
    parser.add_argument("--predictions", metavar="FILE", help="write a line for each record (not of texts)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--stress",
        nargs="?",
        const="",
        metavar="FILE",
        help="stress tests of a classifier, with lists in JSON",
    )
    harness.add_options(parser)
    return parser


def _print_stress(model: "LoadedModel", options: argparse.Namespace, request: Any) -> int:
    """Print the figures of stress tests."""
    from tlx.evaluation.stress import table
    from tlx.trainer.stress import read_settings, run_stress_tests

    for flag in ("config", "predictions"):
        if getattr(options, flag) is not None:
            raise ConfigError(f"--{flag} is not for stress tests: leave it or --stress out")
    rows = run_stress_tests(model, request, read_settings(options.stress))
    if options.json:
        lines = [row._asdict() | {"value": row.value._asdict()} for row in rows]
        print(json.dumps({"run": str(options.run), "step": model.step, "stress": lines}, indent=2))
    else:
        print(table(rows))
    return 0


def _print(model: "LoadedModel", options: argparse.Namespace, result: "EvaluationResult", what: str) -> int:
    """Print the figures; write the predictions to their file."""
    from tlx.trainer import outcome

    if options.predictions:
        result.write_predictions(options.predictions)
    if options.json:
        print(json.dumps({"run": str(options.run), "step": model.step, **result.metrics}, indent=2))
        return 0
    print(f"{options.run} at step {model.step}, {what}")
    if result.predictions is not None:
        outcome.show_figures(result.split, result.metrics)
        return 0
    for name, value in result.metrics.items():
        shown = f"{value:,.0f}" if name in ("targets", "bytes") else f"{value:,.4f}"
        print(f"  {name:14} {shown}")
    return 0
