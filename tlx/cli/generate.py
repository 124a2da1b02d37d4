r"""Continue a prompt with a trained model, or fill its gaps.

    tlx generate runs/quickstart --prompt='def main('
    tlx generate runs/quickstart --prompt='import' --prompt='class' --max_tokens=40 --temperature=0
    tlx generate runs/quickstart --prompt='for i in ' --num_beams=4
    tlx generate runs/meena --prompt='Hi!' --best_of=20 --temperature=0.88
    tlx generate runs/quickstart --prompt='class ' --max_tokens=200 --stream
    tlx generate runs/large --draft=runs/small --prompt='class '
    tlx generate runs/multi_token --draft=heads --prompt='class '
    tlx generate runs/quickstart --prompt='def main(' --stop=$'\n\n' --stop='def '
    tlx generate runs/quickstart --prompt='for i in ' --choice='range(10)' --choice='None' --by=bytes
    tlx generate runs/quickstart-mlm --prompt='for i in [MASK](10):'
    tlx generate runs/quickstart-span_corruption --prompt='for i in <extra_id_0>(10):'
    tlx generate runs/mbart --prompt='the [MASK] sat' --language=en
    tlx generate runs/ctrl --prompt='The' --code=Reviews

RUN is a run directory or one of its checkpoints. Without --prompt, each line of the standard input is
one. A masked language model prints the likeliest tokens for each [MASK]. With --choice nothing is sampled: the
given texts are ranked by their likelihood after the prompt, the best one first.
"""

import argparse
import contextlib
import logging
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from tlx.base.errors import ConfigError
from tlx.cli import flags
from tlx.evaluation.choices import NORMS, normalized_scores

if TYPE_CHECKING:
    from tlx.api.loaded_model import LoadedModel


def main(argv: list[str]) -> int:
    """Run `tlx generate`: texts on the standard output; exit codes as in tlx/base/errors.py."""
    options = flags.parse(_parser(), argv)
    prompts = options.prompt or [line.rstrip("\n") for line in sys.stdin]
    if not prompts:
        raise ConfigError("there is no prompt: give --prompt='...', or lines on the standard input")
    # After the parser: this loads jax, which --help does not wait for.
    from tlx.api.load import load

    model = load(
        options.run,
        step=options.step,
        dtype=options.dtype,
        allow=options.allow,
        params=options.params,
        weights=options.weights,
    )
    if model.kind == "encoder":
        _check_fills(options)
        _show_gaps(model, prompts, options)
    elif options.choice:
        _show_choices(model, prompts, options)
    else:
        _show_continuations(model, prompts, options)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = flags.parser("generate", __doc__)
    flags.add_run(parser)
    flags.add_weights(parser)
    parser.add_argument(
        "--prompt",
        action="append",
        metavar="TEXT",
        help="text to continue, or with gaps to fill; may be repeated",
    )
    parser.add_argument(
        "--max_tokens", "--max-tokens", type=int, default=64, help="maximum number of new tokens (64)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the sampling (0)")
    parser.add_argument("--samples", type=int, default=1, help="continuations of each prompt (1)")
    _add_best_of(parser)
    parser.add_argument(
        "--stop",
        action="append",
        default=[],
        metavar="TEXT",
        help="text that ends an output; may be repeated",
    )
    parser.add_argument(
        "--begin", default="", metavar="TEXT", help="text with which the output of an encoder-decoder begins"
    )
    parser.add_argument(
        "--draft",
        metavar="RUN",
        help="source of drafts, of which the model judges several at a time: a small decoder with the same "
        "tokenizer, or 'heads' for the model's own; the same text or distribution in fewer passes",
    )
    parser.add_argument(
        "--stream",
        action=argparse.BooleanOptionalAction,
        help="print the text as it comes; by default where one text goes to a terminal",
    )
    parser.add_argument("--top", type=int, default=5, help="candidates printed for each gap (5)")
    _add_marks(parser)
    _add_sampling(parser)
    _add_search(parser)
    return parser


def _add_best_of(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--best_of",
        "--best-of",
        type=int,
        default=0,
        metavar="N",
        help="draw N samples of each output, and print the likeliest (sample-and-rank); 0: draw one",
    )


def _add_marks(parser: argparse.ArgumentParser) -> None:
    """Add the flags of languages, control codes and modes."""
    parser.add_argument("--language", metavar="NAME", help="language of the prompts (mBART, XLM)")
    parser.add_argument(
        "--target_language",
        "--target-language",
        metavar="NAME",
        help="language of the outputs; that of the prompts where it is left out",
    )
    parser.add_argument("--code", metavar="NAME", help="control code of the outputs (CTRL)")
    parser.add_argument("--mode", metavar="NAME", help="mode of a mixture of denoisers (UL2): R, X or S")


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    """Add the flags of sampling."""
    parser.add_argument(
        "--temperature", type=float, default=0.8, help="sampling temperature; 0 is greedy (0.8)"
    )
    parser.add_argument(
        "--top_k", "--top-k", type=int, default=0, help="sample from the k likeliest tokens; 0: from all"
    )
    parser.add_argument(
        "--top_p",
        "--top-p",
        type=float,
        default=1.0,
        help="sample from the fewest tokens whose probabilities sum to at least this; 1.0: from all",
    )
    parser.add_argument(
        "--min_p",
        "--min-p",
        type=float,
        default=0.0,
        help="drop tokens whose probability is below min_p times that of the likeliest token",
    )
    parser.add_argument(
        "--repetition_penalty",
        "--repetition-penalty",
        type=float,
        default=1.0,
        help="penalty on tokens that already occur; above 1: fewer repetitions (1.0)",
    )


def _add_search(parser: argparse.ArgumentParser) -> None:
    """Add the flags of beam search and of ranking given texts."""
    parser.add_argument(
        "--num_beams",
        "--num-beams",
        type=int,
        default=0,
        help="width of a beam search; 0: sample instead",
    )
    parser.add_argument(
        "--length_penalty",
        "--length-penalty",
        type=float,
        default=1.0,
        help="exponent of the length by which beam scores are divided; larger favours longer outputs (1.0)",
    )
    parser.add_argument(
        "--choice", action="append", metavar="TEXT", help="a text to rank after the prompt; twice or more"
    )
    parser.add_argument(
        "--by",
        choices=NORMS,
        default="total",
        help="score of a choice: its total log-likelihood, or that divided by its length (total)",
    )


def _stream(model: "LoadedModel", prompt: str, options: argparse.Namespace) -> None:
    """Print the continuation of a prompt as it comes."""
    pieces = model.stream(
        prompt,
        options.max_tokens,
        options.temperature,
        options.top_k,
        options.top_p,
        options.seed,
        options.begin,
        options.min_p,
        options.repetition_penalty,
        tuple(options.stop),
        **_marks(options),
    )
    print(prompt, end="", flush=True)
    first = next(pieces, "")
    print(_after_prompt(first), first, sep="", end="", flush=True)
    for piece in pieces:
        print(piece, end="", flush=True)
    print()


def _after_prompt(text: str) -> str:
    """Return what stands between a prompt and its answer: a continuation follows on the same line, a gap below."""
    return "\n" if text.startswith("<extra_id_") else ""


def _streams(model: "LoadedModel", prompts: list[str], options: argparse.Namespace) -> bool:
    """Return whether the text is printed as it comes: by --stream, or at a terminal. ConfigError where it cannot."""
    reasons = {
        "--stream prints one text": len(prompts) * options.samples > 1,
        "--draft writes several tokens at a time": options.draft is not None,
        "--num_beams knows the best text at its end only": options.num_beams > 0,
        "--best_of knows the best text at its end only": options.best_of != 0,
        "a permutation model has no cache, and writes its text as a whole": model.kind == "two_stream",
    }
    reason = next((reason for reason, holds in reasons.items() if holds), None)
    if options.stream and reason:
        raise ConfigError(f"{reason}: leave --stream out")
    return reason is None and (sys.stdout.isatty() if options.stream is None else options.stream)


def _show_continuations(model: "LoadedModel", prompts: list[str], options: argparse.Namespace) -> None:
    """Print --samples continuations of each prompt."""
    if _streams(model, prompts, options):
        _stream(model, prompts[0], options)
        return
    repeated = [prompt for prompt in prompts for _ in range(options.samples)]
    draft = _load_draft(options)
    with _logged_passes(draft is not None):
        texts = model.generate(
            repeated,
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
            **_marks(options),
            draft=draft,
            best_of=options.best_of,
        )
    for prompt, text in zip(repeated, texts, strict=True):
        if len(repeated) > 1:
            print("-" * 60)
        print(prompt, text, sep=_after_prompt(text))


@contextlib.contextmanager
def _logged_passes(is_drafted: bool) -> Iterator[None]:
    """Show the log's information where there are drafts: the number of passes and of tokens from each."""
    log = logging.getLogger("tlx")
    level = log.level
    if is_drafted:
        log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.setLevel(level)


def _load_draft(options: argparse.Namespace) -> "LoadedModel | str | None":
    """Return the small model of --draft, or "heads"."""
    from tlx.api.draft import HEADS
    from tlx.api.load import load

    if options.draft is None:
        return None
    if options.draft == HEADS:
        return HEADS

    return load(options.draft, dtype=options.dtype, allow=options.allow)


def _marks(options: argparse.Namespace) -> dict[str, str | None]:
    """Return the language, code and mode of the texts as arguments of a model's methods."""
    return {name: getattr(options, name) for name in ("language", "target_language", "code", "mode")}


def _check_fills(options: argparse.Namespace) -> None:
    """Raise ConfigError for a flag that a masked model has no use for."""
    for name in (
        "choice",
        "stop",
        "begin",
        "stream",
        "draft",
        "num_beams",
        "best_of",
        "target_language",
        "code",
        "mode",
    ):
        if getattr(options, name):
            raise ConfigError(
                f"--{name} is for models that write texts; this one is masked and fills the [MASK] of --prompt, "
                "with --top and --language"
            )


def _show_gaps(model: "LoadedModel", prompts: list[str], options: argparse.Namespace) -> None:
    """Print the --top likeliest tokens of each gap."""
    for prompt in prompts:
        print(prompt)
        for number, candidates in enumerate(model.fill(prompt, options.top, options.language), start=1):
            columns = (f"{candidate.piece!r} {candidate.probability:.3f}" for candidate in candidates)
            print(f"  gap {number}: " + "  ".join(columns))


def _show_choices(model: "LoadedModel", prompts: list[str], options: argparse.Namespace) -> None:
    """Print a line for each choice with its log-likelihood in nats: total, and per token and byte."""
    choices: list[str] = options.choice
    by: str = options.by
    ranking = model.choose(prompts, choices, by, **_marks(options))
    assert isinstance(ranking, list)  # of a list of prompts
    for prompt, ranked in zip(prompts, ranking, strict=True):
        print(prompt)
        values = normalized_scores(ranked.scores, by)
        for index in sorted(range(len(choices)), key=lambda index: -values[index]):
            columns = (f"{normalized_scores(ranked.scores, norm)[index]:9.3f} {norm}" for norm in NORMS)
            print("  " + "  ".join(columns) + f"  {choices[index]!r}")
