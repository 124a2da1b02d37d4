"""Adafactor's second moments, holding for each leaf only what it uses."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from tlx.base import tree


class FactoredState(NamedTuple):
    """rows, columns: {path: mean of g^2} of the leaves that are factored; whole: g^2 of the others."""

    count: jax.Array
    rows: Any
    columns: Any
    whole: Any


def scale_by_factored_rms(decay: float, min_dim: int) -> optax.GradientTransformation:
    """`optax.scale_by_factored_rms` without the placeholder that it keeps for each statistic a leaf has not.

    Of small models those are several percent of the state, and no device could hold less than all.
    """
    inner = optax.scale_by_factored_rms(decay_rate=decay, min_dim_size_to_factor=min_dim)

    def init(params: Any) -> FactoredState:
        return _drop(inner.init(params))

    def update(updates: Any, state: FactoredState, params: Any) -> tuple[Any, FactoredState]:
        updates, full = inner.update(updates, _fill(state, params), params)
        return updates, _drop(full)

    return optax.GradientTransformation(init, update)


def _drop(full: Any) -> FactoredState:
    rows, columns, whole = (tree.flatten(part) for part in (full.v_row, full.v_col, full.v))
    factored = {path for path, row in rows.items() if row.shape != (1,)}
    return FactoredState(
        full.count,
        tree.unflatten({path: rows[path] for path in rows if path in factored}),
        tree.unflatten({path: columns[path] for path in rows if path in factored}),
        tree.unflatten({path: whole[path] for path in rows if path not in factored}),
    )


def _fill(state: FactoredState, params: Any) -> Any:
    def full(part: Any) -> Any:
        held = tree.flatten(part)
        return tree.map_with_path(lambda path, leaf: held.get(path, jnp.zeros((1,), leaf.dtype)), params)

    return optax.FactoredState(state.count, full(state.rows), full(state.columns), full(state.whole))
