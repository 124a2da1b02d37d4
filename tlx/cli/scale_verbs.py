"""The verbs of `tlx scale`: each takes the parsed flags, prints its result and returns the exit code.

Modules that import JAX (planning, coordinate_checks) or matplotlib (reporting) are imported by the verbs that
need them: the other verbs answer sooner.
"""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from tlx.base import place as places
from tlx.base.config import from_dict
from tlx.base.errors import NOT_IDENTIFIED, ConfigError, DataError
from tlx.base.place import Place
from tlx.cli import scale_tables
from tlx.scaling import fits
from tlx.scaling.backtesting import backtest as run_backtest
from tlx.scaling.comparison import compare as compare_fits
from tlx.scaling.downstream_metrics import downstream as predict_downstream
from tlx.scaling.fits import Fit
from tlx.scaling.forecast import accelerator_hours
from tlx.scaling.forecast import predict as predict_run
from tlx.scaling.hyperparameters import hparams as fit_hparams
from tlx.scaling.ladder import LadderConfig
from tlx.scaling.ledger import CHECKPOINTS, FORMAT, Ledger
from tlx.scaling.mixture_laws import MixtureFit
from tlx.scaling.prediction import predict_loss
from tlx.scaling.running import run as run_ladder
from tlx.scaling.running import status as ladder_status
from tlx.scaling.runs import load_runs
from tlx.scaling.saved_fits import fit_to_json
from tlx.scaling.sensitivity import by_convention, by_delta, influence
from tlx.scaling.suggestions import halving
from tlx.scaling.suggestions import suggest as suggest_runs


def plan(options: argparse.Namespace) -> int:
    """Plan a ladder and write plan.json."""
    from tlx.scaling.planning import plan as plan_ladder

    ladder, run_config, folder = _ladder(options)
    if ladder is None:
        raise ConfigError("plan needs --config")
    planned = plan_ladder(ladder, run_config)
    Ledger(folder).start(planned)
    _print(options, planned, scale_tables.plan(planned) + f"\nwritten to {folder / 'plan.json'}")
    return 0


def run(options: argparse.Namespace) -> int:
    """Train every run of a ladder; exit 1 where one is left or has failed."""
    from tlx.scaling.planning import plan as plan_ladder

    ladder, run_config, folder = _ladder(options)
    planned = None
    if ladder is not None:
        # A stored plan keeps its rows: the new one is only compared with it.
        planned = plan_ladder(ladder, run_config, memory=not Ledger(folder).has_plan)
    say = _silent if options.json else _say
    run_ladder(planned, folder, options.backend, parallel=options.parallel, allow=options.allow, say=say)
    progress = ladder_status(folder)
    _print(options, progress, scale_tables.status(progress))
    return 0 if not any(progress[state] for state in ("left", "failed", "unscored")) else 1


def status(options: argparse.Namespace) -> int:
    """Print the state of a ladder's runs."""
    progress = ladder_status(_ladder(options)[2])
    _print(options, progress, scale_tables.status(progress))
    return 0


def fit(options: argparse.Namespace) -> int:
    """Fit a law, and print its constants with what they depend on."""
    _check_positive(options, ("flops", "times"))
    fitted = _fit_table(options)
    if not fitted.ok:
        return _not_identified(options, fitted)
    tests: dict[str, Any] = {
        "influence": influence(fitted),
        "by_delta": by_delta(fitted),
        "by_convention": by_convention(fitted),
    }
    if fitted.cross_check is not None:
        other = fitted.cross_check
        tests["approach_2"] = {"status": other.status, "exponents": other.exponents, "ci": other.ci}
    _print(options, fit_to_json(fitted) | tests if options.json else None, scale_tables.fit(fitted, tests))
    return 0


def backtest(options: argparse.Namespace) -> int:
    """Print the errors of extrapolations from the smaller budgets."""
    fitted = _fit_table(options)
    if not fitted.ok:
        return _not_identified(options, fitted)
    result = run_backtest(fitted)
    _print(options, result.to_dict(), scale_tables.backtest(result))
    return 0


def suggest(options: argparse.Namespace) -> int:
    """Print the runs that narrow a forecast most per FLOP."""
    _check_positive(options, ("flops", "times", "count"))
    fitted = _fit_table(options)
    if not fitted.ok:
        return _not_identified(options, fitted)
    flops = _budget(options, fitted)
    suggestions = suggest_runs(fitted, flops, options.count)
    halved = halving(fitted, flops)
    values = {"runs": [suggestion._asdict() for suggestion in suggestions], "halving": halved._asdict()}
    _print(options, values, scale_tables.suggest(suggestions, halved, flops))
    return 0


def predict(options: argparse.Namespace) -> int:
    """Print the run that a budget should buy; with --train, train the nearest buildable one."""
    _check_positive(options, ("flops", "times", "N", "D", "D_unique", "accelerator_flops"))
    if (options.N is None) != (options.D is None):
        raise ConfigError("--N and --D are given together, or neither: a budget alone decides both")
    fitted = _fit_table(options)
    if not fitted.ok:
        return _not_identified(options, fitted)
    answer = predict_run(
        fitted,
        None if options.N is not None else _budget(options, fitted),
        N=options.N,
        D=options.D,
        D_unique=options.D_unique,
        inference_tokens=options.inference_tokens or 0.0,
        rate_law=options.rate_law or "steplaw",
    )
    if options.accelerator_flops:
        hours = accelerator_hours(fitted, answer["N"], answer["D"], options.accelerator_flops)
        answer["accelerator_hours"] = hours
    shown = dict(answer)
    if options.config is not None:
        buildable = _buildable(options, fitted, answer)
        shown["buildable"] = {key: value for key, value in buildable.items() if key != "config"}
        if options.train:
            shown["measured"] = _train(options, buildable)
    elif options.train:
        raise ConfigError("--train needs --config, for the run to make")
    _print(options, shown, scale_tables.predict(shown, fitted, is_optimum=options.N is None))
    return 0


def compare(options: argparse.Namespace) -> int:
    """Print which of two tables has the better recipe at a budget, and how surely."""
    _check_positive(options, ("flops", "times"))
    first = _fit_table(options)
    second = _fit_table(options, options.other)
    for fitted in (first, second):
        if not fitted.ok:
            return _not_identified(options, fitted)
    result = compare_fits(first, second, times=options.times, flops=options.flops)
    _print(options, result, scale_tables.compare(result))
    return 0


def curve(options: argparse.Namespace) -> int:
    """Print the forecast of the end of a run from its first part."""
    from tlx.scaling.run_curves import forecast_run

    result = forecast_run(options.run, options.reference, options.law, options.part)
    _print(options, result, scale_tables.curve(result))
    return 0


def mixture(options: argparse.Namespace) -> int:
    """Plan runs with other weights of their sources, or print the weights that those made call best."""
    if options.plan is None:
        fitted = MixtureFit(_table(options), target=options.target, form=options.form)
        values = {
            "form": fitted.form,
            "errors": fitted.errors,
            "rank_correlation": fitted.rank_correlation,
            "params": fitted.params,
            "best": fitted.best()._asdict(),
        }
        _print(options, values, scale_tables.mixture(values))
        return 0
    from tlx.scaling.mixture_plans import plan_mixtures

    ladder, run_config, folder = _ladder(options)
    if ladder is None or options.N is None or options.flops is None:
        raise ConfigError("mixture --plan needs --config, --N and --flops")
    planned = plan_mixtures(ladder, run_config, options.N, options.flops, options.plan)
    Ledger(folder).start(planned)
    _print(options, planned, scale_tables.plan(planned) + f"\nwritten to {folder / 'plan.json'}")
    return 0


def hparams(options: argparse.Namespace) -> int:
    """Print laws of learning rate and batch, or a check of the parametrisation."""
    if options.coordinate_check and options.optimum_check:
        raise ConfigError("--coordinate-check and --optimum-check are two checks: give one of them")
    if options.optimum_check:
        return _optimum_check(options)
    sizes = [name for name in ("widths", "depths", "steps", "seeds") if getattr(options, name) is not None]
    if sizes:
        raise ConfigError(f"--{sizes[0]} is of --optimum-check, which is not given")
    if options.coordinate_check:
        return _coordinate_check(options)
    result = fit_hparams(_table(options))
    _print(options, result, scale_tables.hparams(result))
    return 0 if result["status"] == "ok" else NOT_IDENTIFIED


def downstream(options: argparse.Namespace) -> int:
    """Print the errors of a task's metric predicted from the loss."""
    path = None
    if not options.runs:
        checkpoints = _ladder(options)[2] / CHECKPOINTS
        path = str(checkpoints) if checkpoints.exists() else None
    result = predict_downstream(
        _table(options, path),
        options.metric,
        form=options.form,
        steps=options.steps,
        law=options.law,
        loss=options.loss,
        chance=options.chance,
        best=options.best,
        items=options.items,
    )
    _print(options, result, scale_tables.downstream(result))
    return 0 if result["status"] == "ok" else NOT_IDENTIFIED


def report(options: argparse.Namespace) -> int:
    """Write the report of a fit."""
    _check_positive(options, ("flops", "times"))
    from tlx.scaling.reporting import report as write_report

    folder = places.as_named(options.folder or ".") if options.runs else _ladder(options)[2]
    fitted = _fit_table(options)
    path = write_report(fitted, folder / "report", _budget(options, fitted), options.command)
    _print(options, {"report": str(path), "status": fitted.status}, f"{fitted.status}; report: {path}")
    return 0 if fitted.ok else NOT_IDENTIFIED


def _ladder(options: argparse.Namespace) -> tuple[LadderConfig | None, Any, Place]:
    """(ladder, run config, folder) of --config and --folder; the first two None without --config."""
    if options.config is None:
        if options.folder is None:
            raise ConfigError("name a ladder with --config=FILE or --folder=FOLDER")
        return None, None, places.as_named(options.folder)
    if "ladder" not in options.config or "run" not in options.config:
        raise ConfigError("--config must be a ladder: get_config returns {'ladder': ..., 'run': ...}")
    ladder = from_dict(LadderConfig, options.config.ladder.to_dict(), "config.ladder")
    if getattr(options, "rate_law", None):
        ladder = dataclasses.replace(ladder, rate_law=options.rate_law)
    return ladder, options.config.run, places.as_named(options.folder or f"runs/scaling/{ladder.name}")


def _table(options: argparse.Namespace, path: str | None = None) -> Any:
    """The table of runs at `path`, or that of --runs, or the ladder's ledger."""
    path = path or options.runs or str(_ladder(options)[2])
    choose: dict[str, Any] = {}
    for word in options.where:
        name, equals, value = word.partition("=")
        if not equals:
            raise ConfigError(f"--where={word} names no value; write --where=COLUMN=VALUE")
        choose[name] = value
    return load_runs(path, options.importer, **choose)


def _fit_table(options: argparse.Namespace, path: str | None = None) -> Fit:
    table = _table(options, path)
    try:
        return fits.fit(
            table,
            options.law,
            approach=options.approach,
            loss=options.loss,
            boot=options.boot,
            by=options.by,
            convention=options.convention,
            curve=options.curve,
            **_asked_forecast(options),
        )
    except DataError as error:
        # `compare` fits two tables.
        raise DataError(f"{path or options.runs or options.folder or 'the ladder'}: {error}") from error


def _asked_forecast(options: argparse.Namespace) -> dict[str, float]:
    """The setting of the forecast that the verb asks for; a run of given N and D asks for no larger budget."""
    if getattr(options, "N", None) is not None:
        return {"times": 1.0}
    if getattr(options, "flops", None) is not None:
        return {"flops": options.flops}
    return {"times": options.times} if hasattr(options, "times") else {}


def _budget(options: argparse.Namespace, fitted: Fit) -> float:
    """FLOPs of the forecast: --flops, or --times the largest run's."""
    if options.flops is not None:
        return options.flops
    if "flops" not in fitted.runs:
        raise ConfigError(
            f"law {fitted.law} was fitted without flops, so that --times has no meaning: pass --flops"
        )
    return options.times * float(fitted.runs["flops"].max())


def _check_positive(options: argparse.Namespace, names: Sequence[str]) -> None:
    """Raise ConfigError for a flag that is given and is not a positive finite number."""
    for name in names:
        value = getattr(options, name)
        if value is not None and not 0 < value < float("inf"):
            raise ConfigError(f"--{name} = {value} must be positive and finite")


def _buildable(options: argparse.Namespace, fitted: Fit, answer: dict[str, Any]) -> dict[str, Any]:
    """The nearest run of the ladder's sizes, with its own forecast."""
    from tlx.scaling.planning import nearest_run

    ladder, run_config, _ = _ladder(options)
    if ladder is None:
        raise ConfigError("predict needs --config for a run that can be built")
    row = nearest_run(ladder, run_config, answer["N"], answer["flops"])
    guess = predict_loss(fitted, N=row["N"], D=row["D"], flops=row["flops"])
    return row | {"loss": guess.loss, "interval": (guess.low, guess.high)}


def _train(options: argparse.Namespace, buildable: dict[str, Any]) -> dict[str, Any]:
    """Train the buildable run, in a ladder of its own beside the one that forecasts it."""
    folder = _ladder(options)[2] / "forecast"
    row = {key: value for key, value in buildable.items() if key not in ("loss", "interval")}
    lines = run_ladder({"format": FORMAT, "runs": [row]}, folder, options.backend, parallel=1)
    # A folder of an earlier format keeps the id that the run had there.
    (stored,) = Ledger(folder).stored_runs([row])
    line = next(line for line in lines if line["run"] == stored)
    low, high = buildable["interval"]
    measured = {"status": line["status"], "loss": line["loss"]}
    if line["loss"] is not None:
        measured["error"] = buildable["loss"] / line["loss"] - 1
        measured["inside"] = bool(low <= line["loss"] <= high)
    return measured


def _coordinate_check(options: argparse.Namespace) -> int:
    """Exit 0 where the config's parametrisation (muP where it has none) is steady over widths."""
    from tlx.scaling import coordinate_checks

    ladder, run_config, folder = _ladder(options)
    if ladder is None:
        raise ConfigError("--coordinate-check needs --config")
    configured = run_config.model.parametrization.name
    names = ("standard", configured if configured != "standard" else "mup")
    checks = [coordinate_checks.coordinate_check(ladder, run_config, name) for name in names]
    with places.written_folder(folder / "report") as local:
        path = folder / "report" / coordinate_checks.plot(checks, local / "coordinates.png").name
    values = {"checks": [check.to_dict() for check in checks], "plot": str(path)}
    _print(options, values, scale_tables.coordinates(checks, str(path)))
    return 0 if checks[-1].steady else NOT_IDENTIFIED


def _optimum_check(options: argparse.Namespace) -> int:
    """Exit 0 where the best rate stays over width and depth under the config's parametrisation (else CompleteP)."""
    from tlx.scaling import optimum_checks

    ladder, run_config, folder = _ladder(options)
    if ladder is None:
        raise ConfigError("--optimum-check needs --config")
    changes: dict[str, Any] = {}
    for name in ("widths", "depths"):
        if getattr(options, name) is not None:
            changes[name] = _whole_numbers(name, getattr(options, name))
    for name in ("steps", "seeds"):
        if getattr(options, name) is not None:
            changes[name] = getattr(options, name)
    settings = optimum_checks.OptimumSettings(**changes)
    configured = run_config.model.parametrization.name
    names = ("standard", configured if configured != "standard" else "completep")
    checks = [optimum_checks.optimum_check(ladder, run_config, name, settings) for name in names]
    with places.written_folder(folder / "report") as local:
        path = folder / "report" / optimum_checks.plot(checks, local / "optima.png").name
    values = {"checks": [check.to_dict() for check in checks], "plot": str(path)}
    _print(options, values, scale_tables.optima(checks, str(path)))
    stays = all(moved.verdict == "stays" for moved in (checks[-1].over_width, checks[-1].over_depth))
    return 0 if stays else NOT_IDENTIFIED


def _whole_numbers(name: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError:
        raise ConfigError(
            f"--{name} = {text!r} must be whole numbers separated by commas, such as 16,32"
        ) from None


def _not_identified(options: argparse.Namespace, fitted: Fit) -> int:
    """Print why there are no constants; returns the exit code for it."""
    _print(options, fitted.to_dict(), f"{fitted.law}: {fitted.status}")
    return NOT_IDENTIFIED


def _print(options: argparse.Namespace, value: Any, text: str) -> None:
    print(json.dumps(value, indent=2, default=_to_plain) if options.json else text)


def _to_plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(type(value).__name__)


def _say(text: str) -> None:
    print(text, flush=True)


def _silent(text: str) -> None:
    """Say nothing: with --json the output is one JSON value."""
