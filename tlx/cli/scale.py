"""Scaling laws: plan a ladder of runs, train them, fit a law, and forecast the big run.

    tlx scale plan    --config=configs/scaling/quickstart.py
    tlx scale run     --config=configs/scaling/quickstart.py --parallel=2
    tlx scale status  --config=configs/scaling/quickstart.py
    tlx scale fit     --config=configs/scaling/quickstart.py      or --runs=table.csv
    tlx scale predict --config=configs/scaling/quickstart.py --times=4 --train
    tlx scale report  --config=configs/scaling/quickstart.py

Also backtest, suggest, compare, hparams, downstream, curve (the end of a run from its first steps) and mixture
(weights of sources: --plan=32 --N=1e6 --flops=1e12, then run --folder, then mixture again). A table of runs is a
.csv, .tsv, .jsonl or .json file, or a ladder's folder; that is runs/scaling/NAME, or --folder=gs://BUCKET/NAME or
s3://BUCKET/NAME. --json prints JSON.
Exit 79: the runs do not determine the constants.
"""

import argparse
import shlex
import sys
import warnings

from tlx.base.errors import USAGE, one_of
from tlx.base.lookup import Table
from tlx.cli import flags

# A verb's function takes the parsed flags and returns the exit code. scale_verbs.py is imported after
# parsing, so that --help waits for no NumPy, SciPy or JAX.
VERBS = Table(
    "verb",
    {
        "plan": "tlx.cli.scale_verbs:plan",
        "run": "tlx.cli.scale_verbs:run",
        "status": "tlx.cli.scale_verbs:status",
        "fit": "tlx.cli.scale_verbs:fit",
        "backtest": "tlx.cli.scale_verbs:backtest",
        "suggest": "tlx.cli.scale_verbs:suggest",
        "predict": "tlx.cli.scale_verbs:predict",
        "compare": "tlx.cli.scale_verbs:compare",
        "curve": "tlx.cli.scale_verbs:curve",
        "mixture": "tlx.cli.scale_verbs:mixture",
        "hparams": "tlx.cli.scale_verbs:hparams",
        "downstream": "tlx.cli.scale_verbs:downstream",
        "report": "tlx.cli.scale_verbs:report",
    },
)


def main(argv: list[str]) -> int:
    """Run `tlx scale VERB ...`: exit 0, 79 not identified, else the table in tlx/base/errors.py."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(__doc__)
        return 0 if argv else USAGE
    verb = argv[0]
    if verb not in VERBS:
        print("tlx scale: " + one_of("verb", verb, VERBS), file=sys.stderr)
        return USAGE
    options = flags.parse(make_parser(verb), argv[1:])
    options.command = shlex.join(["tlx", "scale", *argv])
    # Warnings of a fit are printed once, after the results, instead of with file and line between them.
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        code = VERBS.load(verb)(options)
    messages = [str(warning.message) for warning in caught if warning.category is UserWarning]
    for message in dict.fromkeys(messages):
        print(f"tlx scale {verb}: {message}", file=sys.stderr)
    return code


def make_parser(verb: str) -> argparse.ArgumentParser:
    """Return the parser of `tlx scale VERB`."""
    parser = flags.parser(f"scale {verb}", __doc__ or "")
    flags.add_config(parser, required=False)
    parser.add_argument(
        "--folder", help="the ladder's folder or place in a bucket (default: runs/scaling/NAME)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    if verb in ("run", "predict"):
        backends = "local, launch:'CLUSTER FLAGS', command:TEMPLATE or simulate[:NOISE] (default: local)"
        parser.add_argument("--backend", default="local", help=backends)
        parser.add_argument("--parallel", type=int, default=1, help="number of runs at once (default: 1)")
    if verb in ("plan", "run", "predict"):
        law = "law of learning rate and batch: steplaw, deepseek, or the JSON file of `tlx scale hparams --json`"
        parser.add_argument("--rate-law", help=law + " (default: the ladder's rules; predict: steplaw)")
    if verb == "run":
        allow = "a package outside tlx whose code the configs of the stored plan may name; may be repeated"
        parser.add_argument("--allow", action="append", default=[], metavar="PACKAGE", help=allow)
    if verb not in ("plan", "run", "status", "curve"):
        _add_table_flags(parser)
    if verb not in ("plan", "run", "status", "curve", "hparams", "mixture"):
        _add_fit_flags(parser)
    if verb == "curve":
        _add_curve_flags(parser)
    if verb == "mixture":
        _add_mixture_flags(parser)
    if verb in ("fit", "predict", "suggest", "compare", "report"):
        parser.add_argument("--flops", type=float, help="budget of the forecast in FLOPs")
        times = "budget of the forecast in multiples of the largest run's (default: 10)"
        parser.add_argument("--times", type=float, default=10.0, help=times)
    if verb == "predict":
        _add_predict_flags(parser)
    if verb == "suggest":
        parser.add_argument("--count", type=int, default=4, help="number of runs to suggest (default: 4)")
    if verb == "compare":
        parser.add_argument("--with", dest="other", required=True, help="the other table of runs")
    if verb == "downstream":
        _add_downstream_flags(parser)
    if verb == "hparams":
        _add_hparams_flags(parser)
    return parser


def _add_downstream_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--metric", required=True, help="column of the task's metric")
    parser.add_argument("--form", default="sigmoid", help="sigmoid or exponential (default: sigmoid)")
    steps = "2: loss from size, metric from loss; 1: metric from size; 0: compare both (default: 2)"
    parser.add_argument("--steps", type=int, default=2, help=steps)
    parser.add_argument("--chance", type=float, help="metric of a guess, at which the sigmoid is anchored")
    parser.add_argument("--best", type=float, help="metric that no model exceeds")
    parser.add_argument("--items", type=int, default=0, help="items of the task, for its sampling noise")


def _add_hparams_flags(parser: argparse.ArgumentParser) -> None:
    check = "measure activations over widths under the standard parametrisation and muP"
    parser.add_argument("--coordinate-check", action="store_true", help=check)
    optimum = (
        "find the best learning rate over widths and depths under the standard parametrisation and CompleteP"
    )
    parser.add_argument("--optimum-check", action="store_true", help=optimum)
    sizes = "two widths or more of --optimum-check, separated by commas (default: 16,32,64)"
    parser.add_argument("--widths", help=sizes)
    parser.add_argument("--depths", help="two depths or more of --optimum-check (default: 2,4,8)")
    parser.add_argument(
        "--steps", type=int, help="steps of each training of --optimum-check, 8 or more (default: 100)"
    )
    parser.add_argument(
        "--seeds", type=int, help="seeds of each training of --optimum-check, 2 or more (default: 3)"
    )


def _add_table_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", help="table of runs (default: the ladder's ledger)")
    parser.add_argument("--importer", help="name of a public table with column names of its own")
    where = "keep only rows with this value; may be repeated"
    parser.add_argument("--where", action="append", default=[], metavar="COLUMN=VALUE", help=where)


def _add_fit_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--law", default="chinchilla", help="name of the law (default: chinchilla)")
    approach = "1: envelope of training curves, 2: iso-FLOP minima, 3: loss surface (default: 3)"
    parser.add_argument("--approach", type=int, default=3, help=approach)
    loss = "loss of the residuals: huber:DELTA, lad, l2 or l2:plain (default: huber:1e-3)"
    parser.add_argument("--loss", default="huber:1e-3", help=loss)
    parser.add_argument("--boot", type=int, default=1000, help="bootstrap draws (default: 1000)")
    parser.add_argument("--by", help="column whose values the bootstrap draws (default: runs)")
    convention = "how N and FLOPs are counted: given, 6nd, kaplan, chinchilla or exact (default: given)"
    parser.add_argument("--convention", default="given", help=convention)
    curve = "curve of approach 2: quartic, cubic, parabola, spline, akima or auto (default: auto)"
    parser.add_argument("--curve", default="auto", help=curve)


def _add_curve_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run", required=True, help="directory of the run to forecast")
    reference = "directory of a run that shows what a fall of the learning rate does; may be repeated"
    parser.add_argument("--reference", action="append", default=[], metavar="RUN", help=reference)
    law = "annealing or multi_power (default: multi_power)"
    parser.add_argument("--law", default="multi_power", help=law)
    part = "part of the steps whose losses may be seen (default: 1, all there are)"
    parser.add_argument("--part", type=float, default=1.0, help=part)


def _add_mixture_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--plan", type=int, help="write a plan of so many runs, instead of a fit of those made"
    )
    parser.add_argument("--N", type=float, help="parameters of the planned runs")
    parser.add_argument("--flops", type=float, help="budget of each planned run")
    parser.add_argument("--target", default="loss", help="column of the losses (default: loss)")
    form = "linear, quadratic, exponential, power or auto (default: auto, by the error of left-out runs)"
    parser.add_argument("--form", default="auto", help=form)


def _add_predict_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--N", type=float, help="parameters of the run; with --D, instead of a budget")
    parser.add_argument("--D", type=float, help="training tokens of the run; with --N")
    parser.add_argument("--D_unique", type=float, help="tokens of text that exist; more of D are repeats")
    inference = "tokens that the model will read and write, paid from the budget at 2 N FLOPs each"
    parser.add_argument("--inference_tokens", type=float, help=inference)
    accelerator = "FLOP/s that one accelerator achieves, for the cost in hours"
    parser.add_argument("--accelerator_flops", type=float, help=accelerator)
    parser.add_argument("--train", action="store_true", help="train the run, and print the measured loss")
