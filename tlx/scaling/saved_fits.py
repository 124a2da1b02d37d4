"""Fits as JSON: what `tlx scale fit --json` prints is read back as the Fit that it was."""

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from tlx.base import place as places
from tlx.base.errors import DataError
from tlx.base.place import BucketPath, Place
from tlx.scaling.fits import Fit, FitSettings
from tlx.scaling.isoflop import Minimum
from tlx.scaling.provenance import data_hash, versions

_FORMAT = 1

# Fields of a Fit that JSON holds as they are.
_PLAIN = ("status", "params", "noise", "objective", "agreeing", "gradient")


def fit_to_json(fit: Fit) -> dict[str, Any]:
    """Return a fit as plain values: its summary, and under "saved" all that load_fit needs, its runs included."""
    saved: dict[str, Any] = {name: getattr(fit, name) for name in _PLAIN}
    saved |= {
        "format": _FORMAT,
        "settings": dataclasses.asdict(fit.settings),
        "runs": {name: column.tolist() for name, column in fit.runs.items()},
        "data": data_hash(fit.runs),
        "versions": versions(),
        "flops_per": list(fit.flops_per),
        "ci": fit.ci,
        "exponents": fit.exponents,
        "residuals": fit.residuals.tolist(),
        "minima": [minimum._asdict() for minimum in fit.minima],
    }
    for name in ("theta", "draws"):
        values = getattr(fit, name)
        saved[name] = None if values is None else np.asarray(values).tolist()
    return fit.to_dict() | {"saved": saved}


def load_fit(source: str | os.PathLike | BucketPath | Mapping[str, Any]) -> Fit:
    """Read a fit back from the JSON of `tlx scale fit --json` or of fit_to_json.

    Args:
        source: Path of a JSON file, or its parsed content.

    Returns:
        The fit with its runs and draws: it predicts, backtests and reports as the original does.

    Raises:
        DataError: The file is missing or holds no fit, is of another format, or its runs have been changed.
    """
    name = "the fit" if isinstance(source, Mapping) else str(source)
    content = source if isinstance(source, Mapping) else _read(places.as_named(source))
    saved = content.get("saved") if isinstance(content, Mapping) else None
    if not isinstance(saved, Mapping):
        raise DataError(f"{name} holds no fit: it is not the output of `tlx scale fit --json`")
    if saved.get("format") != _FORMAT:
        raise DataError(f"{name} is of format {saved.get('format')!r}; this version reads format {_FORMAT}")
    try:
        fit = _from_saved(saved)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{name} holds no whole fit: {type(error).__name__} {error}") from error
    if data_hash(fit.runs) != saved["data"]:
        raise DataError(f"{name}: the runs are not those that the fit was made of (their hash differs)")
    return fit


def _read(path: Place) -> Any:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError(f"no fit at {path}") from error
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}") from error


def _from_saved(saved: Mapping[str, Any]) -> Fit:
    intervals = saved["ci"]
    exponents = saved["exponents"]
    k, s = saved["flops_per"]
    return Fit(
        settings=FitSettings(**saved["settings"]),
        runs={name: _column(values) for name, values in saved["runs"].items()},
        flops_per=(k, s),
        ci=None if intervals is None else {name: (low, high) for name, (low, high) in intervals.items()},
        exponents=None if exponents is None else (exponents[0], exponents[1]),
        theta=_array(saved["theta"]),
        draws=_array(saved["draws"]),
        residuals=np.array(saved["residuals"], float),
        minima=[Minimum(**minimum) for minimum in saved["minima"]],
        **{name: saved[name] for name in _PLAIN},
    )


def _column(values: list[Any]) -> np.ndarray:
    texts = any(isinstance(value, str) for value in values)
    return np.array(values, object if texts else float)


def _array(values: list[Any] | None) -> np.ndarray | None:
    return None if values is None else np.array(values, float)
