"""Runs of one size as branches of one long run: constant rate on the trunk, cooled where each one ends.

With warm-up, stable phase and decay (Hu et al. 2024) a run of T steps and a longer one are the same up to
where the shorter one cools down: it goes on from the longer one's checkpoint there, bit for bit, and costs
no more than its own cooling (Hägele et al. 2024).
"""

import copy
from collections.abc import Sequence
from typing import Any

from tlx.base.config import to_dict
from tlx.base.errors import ConfigError
from tlx.run.checks import resolve
from tlx.scaling.ledger import new_id

LedgerRow = dict[str, Any]


def with_trunks(rows: Sequence[LedgerRow], cool: float, warmup: float) -> list[LedgerRow]:
    """Planned runs where those of one size and seed share a trunk, the longest of them.

    cool: share of every run in which the rate falls. warmup: share of the shortest run of each trunk. A
    branch has `trunk`, the run whose checkpoint of step `from_step` it starts from, and `spent`, the FLOPs
    of its own steps; its `flops` stay those of a whole run. Raises ConfigError where a run would cool down
    before it has warmed up.
    """
    made: dict[int, LedgerRow] = {}
    for places in _groups(rows):
        group = sorted(places, key=lambda i: -rows[i]["steps"])
        warm = max(1, round(warmup * rows[group[-1]]["steps"]))
        begins = [rows[i]["steps"] - max(1, round(cool * rows[i]["steps"])) for i in group]
        if begins[-1] < warm:
            raise ConfigError(f"a run of {rows[group[-1]]['steps']} steps would cool down while it warms up")
        trunk = _scheduled(rows[group[0]], rows[group[0]]["lr"], warm, begins[0], begins[1:])
        made[group[0]] = trunk
        for i, begin in zip(group[1:], begins[1:], strict=True):
            branch = _scheduled(rows[i], trunk["lr"], warm, begin, ())
            spent = rows[i]["flops"] * (1 - begin / rows[i]["steps"])
            made[i] = branch | {"trunk": trunk["run"], "from_step": begin, "spent": spent}
    return [made[i] for i in range(len(rows))]


def _groups(rows: Sequence[LedgerRow]) -> list[list[int]]:
    """Places of the runs that differ in their length alone."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for i, row in enumerate(rows):
        key = tuple(row[name] for name in ("depth", "width", "seed", "batch_tokens"))
        groups.setdefault(key, []).append(i)
    return list(groups.values())


def _scheduled(row: LedgerRow, rate: float, warm: int, begin: int, kept: Sequence[int]) -> LedgerRow:
    """The run with its rate constant from step `warm` to step `begin`; the checkpoints at `kept` stay."""
    config = copy.deepcopy(row["config"])
    config["optimizer"]["learning_rate"] = rate
    config["optimizer"]["schedule"] |= {"name": "wsd", "warmup": warm, "cooldown": row["steps"] - begin}
    config["checkpoint"]["keep_at"] = sorted(set(kept))
    config = to_dict(resolve(config))
    return row | {"run": new_id(config), "lr": rate, "config": config}
