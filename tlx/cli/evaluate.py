r"""Bits per byte and loss of a trained model on a text, by the objective it was trained with.

    tlx evaluate runs/quickstart                            its own validation text
    tlx evaluate runs/quickstart --data='books/**/*.txt'    all of some files
    tlx evaluate runs/quickstart --data=python --split=train
    tlx evaluate runs/quickstart --data=tfds:wiki40b/en --split=validation

    tlx evaluate runs/reviews --split=test                  a fine-tuned model on its own test records
    tlx evaluate runs/reviews --data=new.tsv --predictions=new.jsonl

    tlx evaluate runs/entailment --stress                   is it right for the right reasons?
    tlx evaluate runs/entailment --stress=lists.json --split=test

    tlx evaluate runs/reviews --curvature --split=train     which layers need more bits (Q-BERT)

    tlx evaluate runs/large --config=evaluate/sentence_polarity --config.objective.shots=4 \
        --predictions=answers.jsonl                         no training: by likelihood, with 4 examples

    tlx evaluate runs/large --harness=hellaswag,arc_easy --shots=5     EleutherAI's harness
    tlx evaluate runs/chat --harness=arc_easy --shots=5 --chat         the same, in conversations

    tlx evaluate runs/dpo --against=runs/sft --reward=runs/reward      whose answers the reward model prefers
    tlx evaluate runs/sft --best_of=16 --reward=runs/reward --split=train --predictions=best.jsonl
                                                        the best of 16 answers, as records to tune on
    tlx evaluate runs/sft --best_of=16 --reward=runs/helpful --safety=runs/safe --gate=0.15

RUN is a run directory or one of its checkpoints. The text is tokenised once, with the run's own
tokenizer, into the cache folder. Records are read as the run's own were, or as --config says, which is one
of configs/evaluate; --predictions writes each with the model's prediction. From Python: tlx.evaluate.

--stress tests a classifier: accuracy from one text of a pair alone, by a linear baseline and by the model; typos,
other spellings and negations; and, of files that FILE names, contrast sets ("contrast", "contrast_column"), records
unlike the training's ("outside") and lists of harmful records ("harmful", [GLOB, ...]). FILE is a JSON object, whose
other keys are "typo_fraction", "negations" and "paraphrases" ([[WORDS, WORDS], ...]) and "seed".

--curvature prints the top eigenvalue of the Hessian of each layer, by power iteration on --parts of the data of
--batches each (1 by default), its sensitivity (|mean| + standard deviation), and bits for mixed precision: those of
the more sensitive half of the layers are the larger number of --bits.
"""

import argparse
import json
from typing import TYPE_CHECKING, Any

from tlx.base import place as places
from tlx.base.errors import ConfigError
from tlx.cli import flags, harness

if TYPE_CHECKING:
    from tlx.api.loaded_model import LoadedModel
    from tlx.trainer.evaluate import EvaluationRequest, EvaluationResult


def main(argv: list[str]) -> int:
    """Run `tlx evaluate`: prints one figure a line, or JSON."""
    options = flags.parse(_parser(), argv)
    # After the parser: these load jax, which --help does not wait for.
    from tlx.api.load import load
    from tlx.trainer import evaluate

    if options.predictions:
        # A name that is no place is told before hours of evaluation.
        places.parse(options.predictions)
    model = load(
        options.run,
        step=options.step,
        dtype=options.dtype,
        allow=options.allow,
        params=options.params,
        weights=options.weights,
    )
    if options.harness is not None:
        return harness.run(model, options)
    request = evaluate.EvaluationRequest(
        options.data, options.column, options.split, options.batches, options.batch_size
    )
    if options.stress is not None:
        return _print_stress(model, options, request)
    if options.curvature:
        return _print_curvature(model, options, request)
    if options.against or options.best_of or options.reward:
        return _judge(model, options, request)
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
    flags.add_weights(parser)
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
    _add_curvature(parser)
    judged = parser.add_argument_group("answers judged by a reward model")
    judged.add_argument("--reward", metavar="RM", help="run of the task reward, the judge")
    judged.add_argument("--against", metavar="RUN", help="run whose answers to the same prompts are compared")
    judged.add_argument("--best_of", "--best-of", type=int, metavar="N", help="answers to each prompt")
    judged.add_argument("--safety", metavar="RM", help="a second reward model, of safety")
    judged.add_argument(
        "--gate", type=float, default=0.15, help="probability of safety below which it judges"
    )
    judged.add_argument(
        "--safety_column", default="", metavar="COLUMN", help="whether a prompt is one of safety"
    )
    judged.add_argument("--temperature", type=float, help="of the answers; 1 with --best_of, else 0 (greedy)")
    judged.add_argument("--seed", type=int, default=0, help="of the draws")
    harness.add_options(parser)
    return parser


def _add_curvature(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the Hessian's spectrum."""
    group = parser.add_argument_group("curvature of the loss by layer")
    group.add_argument("--curvature", action="store_true", help="print the spectrum's top of each layer")
    group.add_argument("--parts", type=int, default=10, help="parts of the data, an eigenvalue each (10)")
    group.add_argument("--iterations", type=int, default=20, help="power iterations (20)")
    group.add_argument("--bits", default="2,4", metavar="LOW,HIGH", help="bits of the two halves (2,4)")


def _print_curvature(model: "LoadedModel", options: argparse.Namespace, request: "EvaluationRequest") -> int:
    """Print the sensitivity of each layer, and bits that follow."""
    from tlx.trainer.curvature import CurvatureConfig, measure

    for flag in ("config", "predictions"):
        if getattr(options, flag) is not None:
            raise ConfigError(f"--{flag} is not for the curvature: leave it or --curvature out")
    try:
        low, high = (int(word) for word in options.bits.split(","))
    except ValueError:
        raise ConfigError(f"--bits = {options.bits!r} must be two whole numbers, such as 2,4") from None
    settings = CurvatureConfig(
        parts=options.parts,
        batches=1 if request.batches is None else request.batches,
        iterations=options.iterations,
        bits=(low, high),
        seed=options.seed,
    )
    result = measure(model, request, settings)
    if options.json:
        lines = [
            row._asdict() | {"mean": row.mean, "deviation": row.deviation, "sensitivity": row.sensitivity}
            for row in result.rows
        ]
        figures = {"layers": lines, "layer_bits": result.bits}
        print(json.dumps({"run": str(options.run), "step": model.step, **figures}, indent=2))
        return 0
    print(f"{options.run} at step {model.step}, curvature on {request.data or request.split}")
    print(f"  {'layer':32} {'mean':>10} {'deviation':>10} {'sensitivity':>12}")
    for row in result.rows:
        name = f"{row.stack}[{row.layer}]"
        print(f"  {name:32} {row.mean:10.4f} {row.deviation:10.4f} {row.sensitivity:12.4f}")
    if result.bits is not None:
        print(f'--config.model.quantization.layer_bits="{result.bits}"')
    return 0


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


def _judge(model: "LoadedModel", options: argparse.Namespace, request: "EvaluationRequest") -> int:
    """Print whose answers a reward model prefers, or what the best of several are worth."""
    if not options.reward or bool(options.against) == bool(options.best_of):
        raise ConfigError(
            "--reward=RM judges the answers of --against=RUN, or of --best_of=N: give one of the two"
        )
    if options.best_of is not None and options.best_of < 2:
        raise ConfigError(f"--best_of = {options.best_of} must be 2 or more")
    from tlx.api.load import load
    from tlx.decode.sampling import Sampling
    from tlx.trainer import judged, outcome

    safety = None if options.safety is None else load(options.safety, allow=options.allow)
    reward = load(options.reward, allow=options.allow)
    judges = judged.Judges(reward, safety, options.gate, options.safety_column)
    temperature = options.temperature
    if temperature is None:
        temperature = 1.0 if options.best_of else 0.0
    count = options.best_of or 1
    sampling = Sampling(temperature=temperature)
    answers = judged.judge_answers(model, judges, request, sampling, count, options.seed)
    if options.best_of:
        figures = judged.best_of(answers)
    else:
        other = load(options.against, dtype=options.dtype, allow=options.allow, weights=options.weights)
        others = judged.judge_answers(other, judges, request, sampling, 1, options.seed)
        judged.check_same_prompts(answers, others, options.against)
        figures = judged.win_rate(answers, others)
    if options.predictions:
        judged.write_best(options.predictions, answers, model.config.objective.target)
    if options.json:
        print(json.dumps({"run": str(options.run), "step": model.step, **figures}, indent=2))
    else:
        outcome.show_figures(request.data or request.split, figures)
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
