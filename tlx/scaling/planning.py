"""plan: from a budget to a ladder of runs, with buildable models, tokens, learning rates and costs."""

import copy
import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from tlx.base.config import from_dict, to_dict
from tlx.base.errors import ConfigError
from tlx.run.checks import resolve
from tlx.scaling.costs import SizedRun, plain_config, sized_runs
from tlx.scaling.ladder import LadderConfig
from tlx.scaling.ledger import FORMAT, new_id
from tlx.scaling.rate_laws import Rates, load_rate_law
from tlx.scaling.task_scores import read_tasks
from tlx.scaling.trunks import with_trunks

# A run of the ladder: its budget in FLOPs, and its size.
Cell = tuple[float, SizedRun]


class Settings(NamedTuple):
    """What a sweep changes in a run of a cell."""

    lr_factor: float = 1.0
    """Multiple of the learning rate."""

    batch_factor: float = 1.0
    """Multiple of the batch."""

    weight_decay: float | None = None
    """Weight decay; None for the run's own."""


_OWN_SETTINGS = Settings()


def plan(ladder: Any, run: Any, memory: bool = True) -> dict[str, Any]:
    """Plan a ladder of runs over one run's config.

    Args:
        ladder: A LadderConfig, or its dict.
        run: The run's config: a RunConfig, a ConfigDict or a dict.
        memory: Whether memory_bytes is estimated, which takes seconds for each size; else it is None.

    Returns:
        {"format", "name", "ladder", "budgets", "total_flops", "hours", "runs"}, and "tasks" where runs are evaluated
        on some. Each run holds its id, its resolved config, and N, D and flops by every convention.

    Raises:
        ConfigError: A setting is not legal, or the budget cannot pay for a ladder with bracketed minima.
    """
    config = ladder if isinstance(ladder, LadderConfig) else from_dict(LadderConfig, dict(ladder), "ladder")
    config.validate()
    values = plain_config(run)
    base_config = resolve(values, allow=None)
    if base_config.eval.patience:
        raise ConfigError(
            f"eval.patience = {base_config.eval.patience} would end runs of a ladder before the tokens that their "
            "cells are planned for; set it to 0"
        )
    candidates = sized_runs(config, values, base_config)
    budgets = config.budgets or _budgets(config)
    cells = [(budget, sized) for budget in budgets for sized in _chosen(config, budget, candidates)]
    swept = _swept(config)
    runs = []
    for budget, sized in cells:
        runs += [
            _planned_run(config, sized, budget, base_config.seed, memory, settings) for settings in swept
        ]
    for budget, sized in _replicated(config, budgets, cells):
        for i in range(1, config.seeds):
            seed = base_config.seed + i
            runs += [_planned_run(config, sized, budget, seed, memory, settings) for settings in swept]
    if config.cooldown_fraction:
        runs = with_trunks(runs, config.cooldown_fraction, config.warmup_fraction)
    total = sum(row.get("spent", row["flops"]) for row in runs)
    # The factor allows for rounding in budgets that are to cost exactly the total.
    if total > config.total * 1.0000001:
        raise ConfigError(f"the ladder costs {total:.3g} FLOP, more than the budget of {config.total:.3g}")
    if len({row["run"] for row in runs}) < len(runs):
        raise ConfigError(
            "two cells of the ladder are the same run; lower ladder.sizes or raise ladder.size_span"
        )
    planned = {
        "format": FORMAT,
        "name": config.name,
        "ladder": to_dict(config),
        "budgets": [float(budget) for budget in budgets],
        "total_flops": total,
        "hours": total / config.flops_per_second / 3600,
        "runs": runs,
    }
    return planned | ({"tasks": read_tasks(config.tasks)} if config.tasks else {})


def nearest_run(ladder: LadderConfig, run: Any, N: float, flops: float) -> dict[str, Any]:
    """Plan the buildable run of a budget whose number of parameters is nearest to N, in log distance.

    Args:
        ladder: The ladder, which defines the sizes and rules.
        run: The run's config.
        N: Parameters that are wanted.
        flops: The budget in training FLOPs.

    Returns:
        A row as in a plan.
    """
    values = plain_config(run)
    candidates = sized_runs(ladder, values, resolve(values, allow=None))
    nearest = min(candidates, key=lambda sized: abs(math.log(sized.params / N)))
    row = _planned_run(ladder, nearest, flops, values["seed"], memory=True)
    if not ladder.cooldown_fraction:
        return row
    return with_trunks([row], ladder.cooldown_fraction, ladder.warmup_fraction)[0]


def _budgets(config: LadderConfig) -> list[float]:
    """Geometric budgets whose runs, replicates included, cost the total."""
    shares = [config.budget_ratio**i for i in range(config.num_budgets)]
    replicas = config.seed_cells * (config.seeds - 1)
    cost = (
        config.num_settings * config.sizes * sum(shares)
        + config.num_settings * replicas * shares[(config.num_budgets - 1) // 2]
    )
    unit = config.total / cost / config.num_settings
    return [unit * share for share in shares]


def _prior_optimum(config: LadderConfig, budget: float, candidates: Sequence[SizedRun]) -> float:
    """Parameters of the layers of the candidate nearest to the prior's tokens per parameter at a budget."""
    ratio = config.tokens_per_param * (budget / config.prior_budget) ** (1 - 2 * config.prior_exponent)

    def distance(sized: SizedRun) -> float:
        tokens = budget / sized.flops_per_token
        return abs(math.log(tokens / sized.nonembed / ratio))

    return min(candidates, key=distance).nonembed


def _chosen(config: LadderConfig, budget: float, candidates: Sequence[SizedRun]) -> list[SizedRun]:
    """`sizes` candidates on both sides of the prior optimum, each of which can make enough steps."""
    able = []
    for sized in candidates:
        tokens = budget / sized.flops_per_token
        if tokens >= config.min_steps * sized.tokens_per_step(config, 0):
            able.append(sized)
    if len(able) < config.sizes:
        raise ConfigError(
            f"a budget of {budget:.3g} FLOP pays for {config.min_steps} steps of {len(able)} sizes; "
            f"ladder.sizes = {config.sizes} need more budget, a smaller batch or smaller depths"
        )
    middle = _prior_optimum(config, budget, able)
    aims = [middle * config.size_span ** (2 * i / (config.sizes - 1) - 1) for i in range(config.sizes)]
    chosen: list[SizedRun] = []
    for aim in aims:
        free = [sized for sized in able if sized not in chosen]
        chosen.append(min(free, key=lambda sized: abs(math.log(sized.nonembed / aim))))
    return sorted(chosen, key=lambda sized: sized.nonembed)


def _replicated(config: LadderConfig, budgets: Sequence[float], cells: list[Cell]) -> list[Cell]:
    """The middle sizes of the middle budget, where noise is measured with other seeds."""
    if config.seeds < 2:
        return []
    middle = budgets[(len(budgets) - 1) // 2]
    inside = [cell for cell in cells if cell[0] == middle]
    begin = max(0, (len(inside) - config.seed_cells + 1) // 2)
    return inside[begin : begin + config.seed_cells]


def _swept(config: LadderConfig) -> list[Settings]:
    """All settings that each cell is trained with."""
    decays: tuple[float | None, ...] = config.weight_decays or (None,)
    combined = itertools.product(config.lr_factors or (1.0,), config.batch_factors or (1.0,), decays)
    return [Settings(*settings) for settings in combined]


def _rates(config: LadderConfig, sized: SizedRun, tokens: float) -> Rates:
    """Learning rate and batch of a run of `tokens` tokens, by the ladder's rules or its law."""
    per_step = sized.tokens_per_step(config, tokens)
    if not config.rate_law:
        steps = max(1, int(tokens / per_step))
        rate = config.learning_rate * (sized.size.width / config.lr_base_width) ** config.lr_width_power
        rate *= (steps * per_step / config.lr_base_tokens) ** config.lr_tokens_power
        return Rates(rate, per_step)
    n = sized.exact_params()["N"]
    rates = load_rate_law(config.rate_law)(n, tokens, sized.flops_per_token * tokens)
    if rates.batch_tokens is None:
        return rates._replace(batch_tokens=per_step)
    # Whole multiples of the run's own batch, which its mesh divides.
    own = sized.values["train"]["batch_size"] * sized.length
    return rates._replace(batch_tokens=max(1, round(rates.batch_tokens / own)) * own)


def _planned_run(
    config: LadderConfig,
    sized: SizedRun,
    budget: float,
    seed: int,
    memory: bool,
    settings: Settings = _OWN_SETTINGS,
) -> dict[str, Any]:
    """A row of the plan: the resolved config and all that it costs."""
    tokens = budget / sized.flops_per_token
    rates = _rates(config, sized, tokens)
    rows = max(1, round((rates.batch_tokens or 0) * settings.batch_factor / sized.length))
    per_step = rows * sized.length
    steps = max(1, int(tokens / per_step))
    # Evaluations on tasks are evenly spaced, the last one at the end.
    points = min(config.task_points, steps) if config.tasks else 1
    steps -= steps % points
    if settings.batch_factor > 1 and steps < config.min_steps:
        raise ConfigError(
            f"ladder.batch_factors: {settings.batch_factor:g} times the batch leaves {steps} steps to the run of "
            f"{budget:.3g} FLOP and width {sized.size.width}, below ladder.min_steps = {config.min_steps}"
        )
    size = sized.size
    rate = rates.lr * settings.lr_factor
    decay = settings.weight_decay if settings.weight_decay is not None else rates.weight_decay
    values = copy.deepcopy(sized.values)
    values["seed"] = seed
    values["name"] = f"{config.name}-d{size.depth}-{steps}"
    values["train"] |= {"steps": steps, "batch_size": rows}
    values["optimizer"]["learning_rate"] = float(f"{rate:.4g}")
    if decay is not None:
        values["optimizer"]["weight_decay"] = float(f"{decay:.4g}")
    values["optimizer"]["schedule"]["warmup"] = config.warmup_fraction
    between = steps // points
    values["eval"] |= {"every": between, "final": False}
    values["checkpoint"] |= {"every": max(1, -(-steps // config.checkpoints)), "keep": 1}
    if points > 1:
        values["checkpoint"]["keep_at"] = [between * i for i in range(1, points)]
    values = to_dict(resolve(values, allow=None))
    flops = sized.conventions(rows, steps)
    # Ledgers of ladders that leave the weight decay alone have no column of it.
    swept = {} if decay is None else {"weight_decay": values["optimizer"]["weight_decay"]}
    return {
        "run": new_id(values),
        "objective": sized.objective,
        "budget": float(budget),
        **sized.exact_params(),
        "D": steps * per_step,
        "flops": flops["exact"],
        **{f"flops_{name}": value for name, value in flops.items()},
        "depth": size.depth,
        "width": size.width,
        "heads": size.heads,
        "hidden": size.hidden,
        "steps": steps,
        "batch_tokens": per_step,
        "lr": values["optimizer"]["learning_rate"],
        **swept,
        "seed": seed,
        "memory_bytes": sized.memory_bytes(config, rows) if memory else None,
        "seconds": flops["exact"] / config.flops_per_second,
        "config": values,
    }
