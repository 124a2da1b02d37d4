"""Plans of small runs that differ in the weights of their sources alone, for tlx.scaling.mixture_laws."""

import copy
from typing import Any

import numpy as np

from tlx.base.config import from_dict, to_dict
from tlx.base.errors import ConfigError
from tlx.run.checks import resolve
from tlx.scaling.costs import plain_config
from tlx.scaling.ladder import LadderConfig
from tlx.scaling.ledger import FORMAT, new_id
from tlx.scaling.mixture_laws import PREFIX
from tlx.scaling.planning import nearest_run

# Weights are drawn from Dirichlet distributions around the config's, as concentrated as these factors say: from
# nearly one source a run to nearly the config's own weights.
_CONCENTRATIONS = (1.0, 3.0, 10.0)

# Least fraction of a source, since a mixture's weights are above 0.
_LEAST = 1e-3


def plan_mixtures(
    ladder: Any, run: Any, N: float, flops: float, count: int = 32, seed: int = 0
) -> dict[str, Any]:
    """Plan runs of one size and budget with other weights of data.mixture.

    Every run is evaluated on the weights of the config itself, so that losses compare, and trained from its second
    batch on by the drawn ones (a stage of data.schedule). The ledger has them in the columns w_0, w_1 ...

    Args:
        ladder: A LadderConfig, or its dict: its sizes and rules.
        run: The run's config, with two sources or more in data.mixture.
        N: Parameters of the runs, about.
        flops: Budget of one run.
        count: Number of runs; the first has the config's own weights.
        seed: Seed of the draws.

    Returns:
        A plan as of tlx.scaling.plan.

    Raises:
        ConfigError: The config has no mixture, or one that is scheduled or scaled by the sources' sizes.
    """
    config = ladder if isinstance(ladder, LadderConfig) else from_dict(LadderConfig, dict(ladder), "ladder")
    config.validate()
    values = plain_config(run)
    sources = values["data"]["mixture"]
    if len(sources) < 2:
        raise ConfigError(f"data.mixture has {len(sources)} sources: 2 are needed to weigh them")
    if values["data"]["schedule"] or values["data"]["mixture_power"]:
        raise ConfigError(
            "data.schedule must be empty and data.mixture_power 0: the plan itself weighs the sources"
        )
    if count < len(sources) + 3:
        raise ConfigError(f"count = {count}: {len(sources)} sources need {len(sources) + 3} runs or more")
    own = np.array([source["weight"] for source in sources], float)
    row = nearest_run(config, values, N, flops)
    runs = []
    for weights in draw_weights(own / own.sum(), count, seed):
        planned = copy.deepcopy(row)
        stage = {"step": 1, "weights": [float(f"{weight:.6g}") for weight in weights]}
        planned["config"]["data"]["schedule"] = [stage]
        planned["config"] = to_dict(resolve(planned["config"], allow=None))
        planned["run"] = new_id(planned["config"])
        planned |= {f"{PREFIX}{i}": weight for i, weight in enumerate(stage["weights"])}
        runs.append(planned)
    total = sum(planned["flops"] for planned in runs)
    return {
        "format": FORMAT,
        "name": f"{config.name}-mixtures",
        "ladder": to_dict(config),
        "budgets": [float(flops)],
        "total_flops": total,
        "hours": total / config.flops_per_second / 3600,
        "runs": runs,
    }


def draw_weights(own: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Draw fractions around a mixture, wide and narrow in turn.

    Args:
        own: Fractions [K] of the mixture, which are the first row.
        count: Number of rows.
        seed: Seed of the draws.

    Returns:
        Fractions [count, K], each _LEAST or more before they are made to sum to 1.
    """
    rng = np.random.default_rng(seed)
    rows = [own]
    for i in range(count - 1):
        concentration = _CONCENTRATIONS[i % len(_CONCENTRATIONS)]
        drawn = np.maximum(rng.dirichlet(concentration * len(own) * own), _LEAST)
        rows.append(drawn / drawn.sum())
    return np.array(rows)
