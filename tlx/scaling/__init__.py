"""Scaling laws: plan a ladder of runs, train it, fit a law, measure its uncertainty, forecast the big run.

The functions behind the verbs of `tlx scale`; importing this imports no JAX. No module has the name of a
function here: once it is imported, a submodule would take the function's place as an attribute of the
package.
"""

import importlib
from typing import Any

_EXPORTS = {
    "CurveFit": "learning_curves",
    "Fit": "fits",
    "LadderConfig": "ladder",
    "LearningCurve": "learning_curves",
    "MixtureFit": "mixture_laws",
    "Ledger": "ledger",
    "backtest": "backtesting",
    "by_convention": "sensitivity",
    "by_delta": "sensitivity",
    "compare": "comparison",
    "coordinate_check": "coordinate_checks",
    "critical_batch": "critical_batches",
    "downstream": "downstream_metrics",
    "fit": "fits",
    "fit_to_json": "saved_fits",
    "forecast_run": "run_curves",
    "hparams": "hyperparameters",
    "influence": "sensitivity",
    "load_fit": "saved_fits",
    "load_runs": "runs",
    "noise_scale": "critical_batches",
    "optimal_run": "constrained_optimum",
    "plan": "planning",
    "plan_mixtures": "mixture_plans",
    "predict": "forecast",
    "predict_loss": "prediction",
    "report": "reporting",
    "run": "running",
    "status": "running",
    "suggest": "suggestions",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'tlx.scaling' has no attribute {name!r}")
    return getattr(importlib.import_module(f"tlx.scaling.{_EXPORTS[name]}"), name)
