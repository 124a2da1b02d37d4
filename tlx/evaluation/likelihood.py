"""Loss, accuracy and bits per byte of an objective's module over one pass of the data."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tlx.base.errors import DataError
from tlx.base.term import Term
from tlx.objectives.shared.base import ObjectiveModule

Batch = Mapping[str, Any]
Scorer = Callable[[Any, Any, Batch], tuple[dict[str, Term], Any]]


def make_scorer(module: ObjectiveModule, num_bytes_V: np.ndarray) -> Scorer:
    """Return a jitted (params, carry, batch) -> (terms, carry), without dropout.

    The terms are the module's and "bytes", the sum of the bytes of text of the targets with positive weight.
    "loss" is the cross-entropy without label smoothing. Build it once and reuse it: every call of this
    function compiles again.
    """
    module = module.clone(loss=dataclasses.replace(module.loss, label_smoothing=0.0))
    table_V = jnp.asarray(num_bytes_V, jnp.float32)

    @jax.jit
    def scorer(params: Any, carry: Any, batch: Batch) -> tuple[dict[str, Term], Any]:
        terms, carry = module.apply({"params": params}, batch, carry)
        counted = jnp.where(batch["weights"] > 0, table_V[batch["targets"]], 0.0)
        return {**terms, "bytes": Term(counted.sum(), jnp.float32(1))}, carry

    return scorer


def evaluate(
    scorer: Scorer,
    params: Any,
    batches: Iterable[Batch],
    carry: Any = None,
    place: Callable[[Batch], Batch] = lambda batch: batch,
) -> dict[str, float]:
    """Average an objective's terms over all batches, every target with its own weight.

    Args:
        scorer: The function that make_scorer returns.
        params: The module's parameters.
        batches: Batches, each visited once: a split's `epoch_batches()`.
        carry: Memory before the first batch.
        place: Puts a batch on the devices.

    Returns:
        Each term's mean ("loss" in nats per target), "bits_per_byte" of the targets' text, "targets" and
        "bytes". Sums are float64 on the host.

    Raises:
        DataError: there are no batches.
    """
    # The terms stay on the device until the end, so that no batch waits for another.
    per_batch = []
    for batch in batches:
        terms, carry = scorer(params, carry, place(batch))
        per_batch.append({name: (term.sum, term.weight) for name, term in terms.items()})
    if not per_batch:
        raise DataError("there is nothing to evaluate: the split has no batches")
    columns = jax.device_get(per_batch)
    totals: dict[str, tuple[float, float]] = {}
    for name in columns[0]:
        sums = np.asarray(np.sum([column[name] for column in columns], axis=0, dtype=np.float64))
        totals[name] = float(sums[0]), float(sums[1])
    num_bytes, _ = totals.pop("bytes")
    nats, num_targets = totals["loss"]
    results = {name: value / weight if weight else 0.0 for name, (value, weight) in totals.items()}
    results["bits_per_byte"] = nats / math.log(2) / num_bytes if num_bytes else math.nan
    return {**results, "targets": num_targets, "bytes": num_bytes}
