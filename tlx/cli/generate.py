"""Continue a prompt with a trained model, or fill its gaps.

    tlx generate runs/quickstart --prompt='def main('
    tlx generate runs/quickstart --prompt='import' --prompt='class' --max_tokens=40 --temperature=0
    tlx generate runs/quickstart --prompt='for i in ' --num_beams=4
    tlx generate runs/quickstart --prompt='def main(' --stop=$'\\n\\n' --stop='def '
    tlx generate runs/quickstart --prompt='for i in ' --choice='range(10)' --choice='None' --by=bytes
    tlx generate runs/quickstart-mlm --prompt='for i in [MASK](10):'
    tlx generate runs/quickstart-span_corruption --prompt='for i in <extra_id_0>(10):'

RUN is a run directory or one of its checkpoints. Without --prompt, each line of the standard input is
one. A masked model shows the likeliest tokens for each [MASK]. With --choice nothing is drawn: the given
texts are compared by their likelihood behind the prompt, the best one first.
"""

import argparse
import sys

import tlx
from tlx.base.errors import ConfigError
from tlx.cli import flags
from tlx.evaluation.choices import NORMS, normalized_scores


def main(argv: list[str]) -> int:
    """`tlx generate`: texts on the standard output; exit 64, 74 ... for what cannot be read or asked."""
    options = flags.parse(_parser(), argv)
    prompts = options.prompt or [line.rstrip("\n") for line in sys.stdin]
    if not prompts:
        raise ConfigError("there is no prompt: give --prompt='...', or lines on the standard input")
    lm = tlx.load(options.run, step=options.step, dtype=options.dtype, allow=options.allow)
    if lm.kind == "encoder":
        _show_gaps(lm, prompts, options.top)
        return 0
    if options.choice:
        _show_choices(lm, prompts, options.choice, options.by)
        return 0
    asked = [prompt for prompt in prompts for _ in range(options.samples)]
    texts = lm.generate(
        asked,
        options.max_tokens,
        options.temperature,
        options.top_k,
        options.top_p,
        options.seed,
        options.num_beams,
        options.length_penalty,
        options.begin,
        options.min_p,
        options.repetition_penalty,
        tuple(options.stop),
    )
    for prompt, text in zip(asked, texts, strict=True):
        if len(asked) > 1:
            print("-" * 60)
        # A gap's answer stands below its prompt, a continuation right behind.
        print(prompt, text, sep="\n" if text.startswith("<extra_id_") else "")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = flags.parser("generate", __doc__)
    flags.add_run(parser)
    parser.add_argument("--prompt", action="append", metavar="TEXT", help="may be repeated")
    parser.add_argument("--max_tokens", "--max-tokens", type=int, default=64, help="at most (64)")
    parser.add_argument("--temperature", type=float, default=0.8, help="0 is greedy (0.8)")
    parser.add_argument("--top_k", "--top-k", type=int, default=0, help="draw from the k likeliest; 0: all")
    parser.add_argument(
        "--top_p", "--top-p", type=float, default=1.0, help="draw from the fewest tokens of this probability"
    )
    parser.add_argument(
        "--min_p", "--min-p", type=float, default=0.0, help="only tokens so likely, beside the likeliest"
    )
    parser.add_argument(
        "--repetition_penalty", "--repetition-penalty", type=float, default=1.0, help="above 1: fewer (1.0)"
    )
    parser.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="ends an answer; may be repeated"
    )
    parser.add_argument(
        "--choice", action="append", metavar="TEXT", help="compare these instead; twice or more"
    )
    parser.add_argument(
        "--by", choices=NORMS, default="total", help="choices' log-likelihood, or that over their length"
    )
    parser.add_argument(
        "--num_beams", "--num-beams", type=int, default=0, help="search for the likeliest instead of drawing"
    )
    parser.add_argument(
        "--length_penalty", "--length-penalty", type=float, default=1.0, help="of beams; more: longer (1.0)"
    )
    parser.add_argument(
        "--begin", default="", metavar="TEXT", help="what an encoder-decoder's answer begins with"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--samples", type=int, default=1, help="continuations of each prompt (1)")
    parser.add_argument("--top", type=int, default=5, help="candidates shown for each gap (5)")
    return parser


def _show_gaps(lm: tlx.LoadedModel, prompts: list[str], top: int) -> None:
    for prompt in prompts:
        print(prompt)
        for number, candidates in enumerate(lm.fill(prompt, top), start=1):
            shown = "  ".join(f"{c.piece!r} {c.probability:.3f}" for c in candidates)
            print(f"  gap {number}: {shown}")


def _show_choices(lm: tlx.LoadedModel, prompts: list[str], choices: list[str], by: str) -> None:
    """A line for each choice, with its log-likelihood (in nats), as it is and over tokens and bytes."""
    for prompt, found in zip(prompts, lm.choose(prompts, choices, by), strict=True):
        print(prompt)
        values = normalized_scores(found.scores, by)
        for index in sorted(range(len(choices)), key=lambda index: -values[index]):
            columns = (f"{normalized_scores(found.scores, norm)[index]:9.3f} {norm}" for norm in NORMS)
            print("  " + "  ".join(columns) + f"  {choices[index]!r}")
