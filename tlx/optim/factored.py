"""Adafactor's second moments, which hold for each leaf only what it uses."""

from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax

from tlx.base import tree


class FactoredState(NamedTuple):
    """Adafactor's second moments, as nested dicts by path."""

    count: jax.Array
    """int32[], updates made."""
    rows: Any
    """Running mean of g^2 over the columns, of the factored leaves."""
    columns: Any
    """Running mean of g^2 over the rows, of the factored leaves."""
    whole: Any
    """Running mean of g^2 of the other leaves."""


def scale_by_factored_rms(decay: float, min_dim: int) -> optax.GradientTransformation:
    """Build `optax.scale_by_factored_rms` without its placeholders for the statistics that a leaf lacks.

    These are several percent of a small model's state, and they cannot be sharded.
    """
    inner = optax.scale_by_factored_rms(decay_rate=decay, min_dim_size_to_factor=min_dim)

    def init(params: Any) -> FactoredState:
        return _drop(inner.init(params))

    def update(updates: Any, state: FactoredState, params: Any) -> tuple[Any, FactoredState]:
        updates, full = inner.update(updates, _fill(state, params), params)
        return updates, _drop(full)

    # The parameters are always passed here, while optax's protocol has None as their default.
    return optax.GradientTransformation(init, cast(optax.TransformUpdateFn, update))


def _drop(full: Any) -> FactoredState:
    rows, columns, whole = (tree.flatten(part) for part in (full.v_row, full.v_col, full.v))
    # optax marks what a leaf does not use by a placeholder of shape (1,).
    factored = {path for path, row in rows.items() if row.shape != (1,)}
    return FactoredState(
        full.count,
        tree.unflatten({path: rows[path] for path in rows if path in factored}),
        tree.unflatten({path: columns[path] for path in rows if path in factored}),
        tree.unflatten({path: whole[path] for path in rows if path not in factored}),
    )


def _fill(state: FactoredState, params: Any) -> Any:
    def full(part: Any) -> Any:
        stored = tree.flatten(part)
        return tree.map_with_path(lambda path, leaf: stored.get(path, jnp.zeros((1,), leaf.dtype)), params)

    return optax.FactoredState(state.count, full(state.rows), full(state.columns), full(state.whole))
