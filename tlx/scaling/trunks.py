"""Trunks: runs of one size as branches of one long run at a constant rate, each with a cooldown at its end.

With warm-up, stable phase and decay (Hu et al. 2404.06395) a run of T steps and a longer one are the same up
to the shorter one's cooldown. It resumes from the longer one's checkpoint there, bit for bit, and costs no
more than its own cooldown (Hägele et al. 2405.18392).
"""

import copy
from collections.abc import Sequence
from typing import Any

from tlx.base.config import to_dict
from tlx.base.errors import ConfigError
from tlx.run.checks import resolve
from tlx.scaling.ledger import new_id

LedgerRow = dict[str, Any]

# Runs that agree in these columns differ in their length alone.
_SHARED = ("depth", "width", "seed", "batch_tokens")


def with_trunks(rows: Sequence[LedgerRow], cooldown: float, warmup: float) -> list[LedgerRow]:
    """Turn planned runs into trunks and branches: those of one size and seed share the longest of them.

    A branch has the columns `trunk`, the run whose checkpoint of step `from_step` it starts from, and
    `spent`, the FLOPs of its own steps; its `flops` stay those of a whole run.

    Args:
        rows: Planned runs.
        cooldown: Fraction of every run, at its end, in which the learning rate falls.
        warmup: Fraction of the shortest run of each trunk in which the learning rate rises.

    Returns:
        The runs in the same order, with new ids and configs.

    Raises:
        ConfigError: A run would cool down before it has warmed up.
    """
    scheduled: dict[int, LedgerRow] = {}
    for indices in _groups(rows):
        group = sorted(indices, key=lambda i: -rows[i]["steps"])
        shortest = rows[group[-1]]["steps"]
        warm = max(1, round(warmup * shortest))
        begins = [rows[i]["steps"] - max(1, round(cooldown * rows[i]["steps"])) for i in group]
        if begins[-1] < warm:
            raise ConfigError(f"a run of {shortest} steps would cool down while it warms up")
        # The trunk keeps a checkpoint where each of its branches begins.
        trunk = _scheduled(rows[group[0]], rows[group[0]]["lr"], warm, begins[0], begins[1:])
        scheduled[group[0]] = trunk
        for i, begin in zip(group[1:], begins[1:], strict=True):
            branch = _scheduled(rows[i], trunk["lr"], warm, begin, ())
            branch["trunk"] = trunk["run"]
            branch["from_step"] = begin
            branch["spent"] = rows[i]["flops"] * (1 - begin / rows[i]["steps"])
            scheduled[i] = branch
    return [scheduled[i] for i in range(len(rows))]


def _groups(rows: Sequence[LedgerRow]) -> list[list[int]]:
    """Indices of the runs that differ in their length alone."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for i, row in enumerate(rows):
        key = tuple(row[name] for name in _SHARED)
        groups.setdefault(key, []).append(i)
    return list(groups.values())


def _scheduled(row: LedgerRow, lr: float, warm: int, begin: int, keep_at: Sequence[int]) -> LedgerRow:
    """The run at a constant rate from step `warm` to step `begin`, keeping the checkpoints of `keep_at`."""
    config = copy.deepcopy(row["config"])
    config["optimizer"]["learning_rate"] = lr
    config["optimizer"]["schedule"] |= {"name": "wsd", "warmup": warm, "cooldown": row["steps"] - begin}
    config["checkpoint"]["keep_at"] = sorted({*config["checkpoint"]["keep_at"], *keep_at})
    config = to_dict(resolve(config, allow=None))
    return row | {"run": new_id(config), "lr": lr, "config": config}
