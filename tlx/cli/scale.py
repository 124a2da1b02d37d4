"""Scaling laws: plan a ladder of runs, make them, fit a law, and forecast the big run.

    tlx scale plan    --config=configs/scaling/quickstart.py
    tlx scale run     --config=configs/scaling/quickstart.py --parallel=2
    tlx scale status  --config=configs/scaling/quickstart.py
    tlx scale fit     --config=configs/scaling/quickstart.py      or --runs=table.csv
    tlx scale predict --config=configs/scaling/quickstart.py --times=4 --train
    tlx scale report  --config=configs/scaling/quickstart.py

Also backtest, suggest, compare, hparams, downstream. A table of runs is a .csv, .jsonl or .json file, or a
ladder's folder; a ladder's folder is runs/scaling/NAME. --json prints JSON. Exit 79: the runs do not
determine the constants.
"""

import argparse
import json
import pathlib
import sys
import warnings
from typing import Any

import numpy as np

from tlx.base.config import from_dict
from tlx.base.errors import NOT_IDENTIFIED, USAGE, ConfigError, one_of
from tlx.cli import flags, scale_tables
from tlx.scaling.fits import Fit, fit
from tlx.scaling.runs import load_runs

VERBS = (
    "plan",
    "run",
    "status",
    "fit",
    "backtest",
    "suggest",
    "predict",
    "compare",
    "hparams",
    "downstream",
    "report",
)


def main(argv: list[str]) -> int:
    """`tlx scale VERB ...`: exit 0, 79 not identified, else the table in tlx/base/errors.py."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(__doc__)
        return 0 if argv else USAGE
    if argv[0] not in VERBS:
        print("tlx scale: " + one_of("verb", argv[0], VERBS), file=sys.stderr)
        return USAGE
    verb = argv[0]
    parser = flags.parser(f"scale {verb}", __doc__)
    _add_flags(parser, verb)
    options = flags.parse(parser, argv[1:])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        code = globals()[f"_{verb}"](options)
    for message in dict.fromkeys(str(w.message) for w in caught if w.category is UserWarning):
        print(f"tlx scale {verb}: {message}", file=sys.stderr)
    return code


def _add_flags(parser: argparse.ArgumentParser, verb: str) -> None:
    flags.add_config(parser, required=False)
    parser.add_argument("--folder", help="the ladder's folder; runs/scaling/NAME by default")
    parser.add_argument("--json", action="store_true", help="print JSON")
    if verb in ("run", "predict"):
        about = "local, launch:'CLUSTER FLAGS', command:TEMPLATE or simulate[:NOISE]"
        parser.add_argument("--backend", default="local", help=about)
        parser.add_argument("--parallel", type=int, default=1, help="runs at once")
    if verb not in ("plan", "run", "status"):
        _add_fit_flags(parser)
    number = {"type": float, "default": None}
    if verb in ("predict", "suggest", "compare", "report"):
        parser.add_argument("--flops", **number, help="the budget to forecast")
        parser.add_argument("--times", type=float, default=10.0, help="or so many times the largest run's")
    if verb == "predict":
        for name in ("N", "D", "D_unique", "inference_tokens", "accelerator_flops"):
            parser.add_argument(f"--{name}", **number)
        parser.add_argument("--train", action="store_true", help="make the run, and print what it reached")
    if verb == "suggest":
        parser.add_argument("--count", type=int, default=4)
    if verb == "compare":
        parser.add_argument("--with", dest="other", required=True, help="the other table of runs")
    if verb == "downstream":
        parser.add_argument("--metric", required=True)
        parser.add_argument("--form", default="sigmoid")
        parser.add_argument("--steps", type=int, default=2)
    if verb == "hparams":
        parser.add_argument("--boot", type=int, default=500)
        parser.add_argument("--coordinate-check", action="store_true", help="activations over widths, by muP")


def _add_fit_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", help="a table of runs; the ladder's ledger by default")
    parser.add_argument("--importer", help="for a public table with columns of its own")
    parser.add_argument("--where", action="append", default=[], metavar="COLUMN=VALUE", help="rows to keep")
    if parser.prog.endswith("hparams"):
        return
    parser.add_argument("--law", default="chinchilla")
    parser.add_argument("--approach", type=int, default=3)
    parser.add_argument("--loss", default="huber:1e-3")
    parser.add_argument("--boot", type=int, default=1000)
    parser.add_argument("--by", help="column whose values the bootstrap draws; runs by default")
    parser.add_argument("--convention", default="given")
    parser.add_argument("--curve", default="auto", help="of approach 2")


def _ladder(options: argparse.Namespace) -> tuple[Any, Any, pathlib.Path]:
    """(ladder, run config, folder) of --config and --folder; the first two None without --config."""
    if options.config is None:
        if options.folder is None:
            raise ConfigError("name a ladder with --config=FILE or --folder=FOLDER")
        return None, None, pathlib.Path(options.folder)
    if "ladder" not in options.config or "run" not in options.config:
        raise ConfigError("--config must be a ladder: get_config returns {'ladder': ..., 'run': ...}")
    from tlx.scaling.ladder import LadderConfig

    ladder = from_dict(LadderConfig, options.config.ladder.to_dict(), "config.ladder")
    return ladder, options.config.run, pathlib.Path(options.folder or f"runs/scaling/{ladder.name}")


def _table(options: argparse.Namespace, path: str | None = None) -> Any:
    path = path or options.runs or str(_ladder(options)[2])
    choose: dict[str, Any] = {}
    for word in options.where:
        name, _, value = word.partition("=")
        try:
            choose[name] = float(value)
        except ValueError:
            choose[name] = value
    return load_runs(path, options.importer, **choose)


def _fitted(options: argparse.Namespace, path: str | None = None) -> Fit:
    return fit(
        _table(options, path),
        options.law,
        options.approach,
        options.loss,
        options.boot,
        options.by,
        convention=options.convention,
        curve=options.curve,
    )


def _print(options: argparse.Namespace, value: Any, text: str) -> None:
    print(json.dumps(value, indent=2, default=_plain) if options.json else text)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(type(value).__name__)


def _unknown(options: argparse.Namespace, found: Fit) -> int:
    """Says why there are no constants, and the exit code for it."""
    _print(options, found.to_dict(), f"{found.law}: {found.status}")
    return NOT_IDENTIFIED


def _plan(options: argparse.Namespace) -> int:
    from tlx.scaling.ledger import Ledger
    from tlx.scaling.planning import plan

    ladder, run, folder = _ladder(options)
    if ladder is None:
        raise ConfigError("plan needs --config")
    made = plan(ladder, run)
    Ledger(folder).start(made)
    _print(options, made, scale_tables.plan(made) + f"\nwritten to {folder / 'plan.json'}")
    return 0


def _run(options: argparse.Namespace) -> int:
    from tlx.scaling.planning import plan
    from tlx.scaling.running import run, status

    ladder, base, folder = _ladder(options)
    made = None if ladder is None else plan(ladder, base)
    quiet = options.json
    run(
        made,
        folder,
        options.backend,
        parallel=options.parallel,
        say=(lambda text: None) if quiet else lambda text: print(text, flush=True),
    )
    found = status(folder)
    _print(options, found, scale_tables.status(found))
    return 0 if not found["left"] and not found["failed"] else 1


def _status(options: argparse.Namespace) -> int:
    from tlx.scaling.running import status

    found = status(_ladder(options)[2])
    _print(options, found, scale_tables.status(found))
    return 0


def _fit(options: argparse.Namespace) -> int:
    found = _fitted(options)
    if not found.ok:
        return _unknown(options, found)
    tests = {"influence": found.influence(), "by_delta": found.by_delta()}
    tests["by_convention"] = found.by_convention()
    if found.approach == 3 and options.law == "chinchilla" and "flops" in found.runs:
        tests["approach_2"] = _other_approach(found)
    _print(options, found.to_dict() | tests, scale_tables.fit(found, tests))
    return 0


def _other_approach(found: Fit) -> dict[str, Any]:
    """Exponents of the iso-FLOP minima, for a cross-check."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other = fit(found.runs, approach=2, boot=0, curve=found.curve)
    return {"status": other.status, "exponents": other.exponents}


def _backtest(options: argparse.Namespace) -> int:
    found = _fitted(options)
    if not found.ok:
        return _unknown(options, found)
    result = found.backtest()
    _print(options, result.to_dict(), scale_tables.backtest(result))
    return 0


def _budget(options: argparse.Namespace, found: Fit) -> float:
    return options.flops or options.times * float(found.runs["flops"].max())


def _suggest(options: argparse.Namespace) -> int:
    from tlx.scaling.suggest import suggest

    found = _fitted(options)
    if not found.ok:
        return _unknown(options, found)
    rows = suggest(found, _budget(options, found), options.count)
    _print(options, [row._asdict() for row in rows], scale_tables.suggest(rows, _budget(options, found)))
    return 0


def _predict(options: argparse.Namespace) -> int:
    from tlx.scaling.forecast import predict

    found = _fitted(options)
    if not found.ok:
        return _unknown(options, found)
    flops = None if options.N and options.D else _budget(options, found)
    rest = {"N": options.N, "D": options.D, "D_unique": options.D_unique}
    rest |= {"inference_tokens": options.inference_tokens or 0.0}
    answer = predict(found, flops, accelerator_flops=options.accelerator_flops, **rest)
    if options.config is not None:
        answer["buildable"] = _buildable(options, found, answer)
        if options.train:
            answer["measured"] = _train(options, answer)
    elif options.train:
        raise ConfigError("--train needs --config, for the run to make")
    shown = {k: v for k, v in answer.items() if k != "buildable"}
    if "buildable" in answer:
        shown["buildable"] = {k: v for k, v in answer["buildable"].items() if k != "config"}
    _print(options, shown, scale_tables.predict(shown, found))
    return 0


def _buildable(options: argparse.Namespace, found: Fit, answer: dict[str, Any]) -> dict[str, Any]:
    """The nearest run of the dial, with its own forecast."""
    from tlx.scaling.planning import nearest_run

    ladder, base, _ = _ladder(options)
    row = nearest_run(ladder, base, answer["N"], answer["flops"])
    guess = found.predict(N=row["N"], D=row["D"], flops=row["flops"])
    return row | {"loss": guess.loss, "interval": (guess.low, guess.high)}


def _train(options: argparse.Namespace, answer: dict[str, Any]) -> dict[str, Any]:
    """Makes the buildable run, in a ladder of its own beside the one that forecasts it."""
    from tlx.scaling.ledger import FORMAT, Ledger
    from tlx.scaling.running import run

    folder = _ladder(options)[2] / "forecast"
    row = {k: v for k, v in answer["buildable"].items() if k not in ("loss", "interval")}
    lines = run({"format": FORMAT, "runs": [row]}, folder, options.backend, parallel=1)
    (stored,) = Ledger(folder).stored_runs([row])
    line = next(line for line in lines if line["run"] == stored)
    low, high = answer["buildable"]["interval"]
    measured = {"status": line["status"], "loss": line["loss"]}
    if line["loss"] is not None:
        measured["error"] = answer["buildable"]["loss"] / line["loss"] - 1
        measured["inside"] = bool(low <= line["loss"] <= high)
    return measured


def _compare(options: argparse.Namespace) -> int:
    from tlx.scaling.comparison import compare

    fits = [_fitted(options), _fitted(options, options.other)]
    for found in fits:
        if not found.ok:
            return _unknown(options, found)
    result = compare(*fits, times=options.times, flops=options.flops)
    _print(options, result, scale_tables.compare(result))
    return 0


def _hparams(options: argparse.Namespace) -> int:
    if options.coordinate_check:
        return _coordinates(options)
    from tlx.scaling.hparams import hparams

    result = hparams(_table(options), options.boot)
    _print(options, result, scale_tables.hparams(result))
    return 0 if result["status"] == "ok" else NOT_IDENTIFIED


def _coordinates(options: argparse.Namespace) -> int:
    """Exit 0 where the config's parametrisation (muP where it has none) is steady over widths."""
    from tlx.scaling.coordinate_check import coordinate_check, plot

    ladder, run, folder = _ladder(options)
    if ladder is None:
        raise ConfigError("--coordinate-check needs --config")
    own = run.model.parametrization.name
    names = ("standard", own if own != "standard" else "mup")
    checks = [coordinate_check(ladder, run, name) for name in names]
    path = plot(checks, folder / "report" / "coordinates.png")
    found = [check.to_dict() for check in checks]
    _print(options, {"checks": found, "plot": str(path)}, scale_tables.coordinates(checks, str(path)))
    return 0 if checks[-1].steady else NOT_IDENTIFIED


def _downstream(options: argparse.Namespace) -> int:
    from tlx.scaling.downstream import downstream

    keys = {"form": options.form, "steps": options.steps, "law": options.law, "loss": options.loss}
    result = downstream(_table(options), options.metric, **keys)
    _print(options, result, scale_tables.downstream(result))
    return 0 if result["status"] == "ok" else NOT_IDENTIFIED


def _report(options: argparse.Namespace) -> int:
    from tlx.scaling.reporting import report

    folder = pathlib.Path(options.folder or ".") if options.runs else _ladder(options)[2]
    found = _fitted(options)
    path = report(found, folder / "report", flops=_budget(options, found))
    _print(options, {"report": str(path), "status": found.status}, f"{found.status}; report: {path}")
    return 0 if found.ok else NOT_IDENTIFIED
