"""Scaling laws: plan a ladder of runs, fit it, say how sure the fit is, and forecast the big run.

The verbs of `tlx scale` as functions; importing this imports no JAX.
"""

import importlib
from typing import Any

_EXPORTS = {
    "Fit": "fits",
    "fit": "fits",
    "load_runs": "runs",
    "backtest": "rolling",
    "predict": "forecast",
    "suggest": "design",
    "compare": "comparison",
    "hparams": "tuning",
    "critical_batch": "tuning",
    "noise_scale": "tuning",
    "downstream": "metrics",
    "plan": "planning",
    "run": "running",
    "status": "running",
    "coordinate_check": "coordinates",
    "report": "reporting",
    "LadderConfig": "ladder",
    "Ledger": "ledger",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'tlx.scaling' has no attribute {name!r}")
    return getattr(importlib.import_module(f"tlx.scaling.{_EXPORTS[name]}"), name)
