"""Adam without bias correction, as the code of BERT, ALBERT, XLNet and ELECTRA has it."""

import jax
import jax.numpy as jnp
import optax


def scale_by_uncorrected_adam(
    b1: float, b2: float, eps: float, mu_dtype: str | None = None
) -> optax.GradientTransformation:
    """Scale gradients to m / (sqrt(v) + eps), with m = b1 m + (1 - b1) g and v = b2 v + (1 - b2) g^2, from 0.

    The first updates are larger than Adam's by up to (1 - b1) / sqrt(1 - b2), 3.2 for BERT's values.

    Args:
        b1: Decay of the first moment.
        b2: Decay of the second moment.
        eps: Added to the root of the second moment.
        mu_dtype: Dtype in which first moments are stored; None: the parameters'.

    Returns:
        The transformation; its state is optax's ScaleByAdamState, so that a run may change over.
    """

    def init(params: optax.Params) -> optax.OptState:
        return optax.scale_by_adam(b1, b2, eps, mu_dtype=mu_dtype).init(params)

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        del params
        assert isinstance(state, optax.ScaleByAdamState)
        first = jax.tree.map(lambda g, m: b1 * m + (1 - b1) * g, updates, state.mu)
        second = jax.tree.map(lambda g, v: b2 * v + (1 - b2) * jnp.square(g), updates, state.nu)
        scaled = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + eps), first, second)
        stored = jax.tree.map(lambda m, old: m.astype(old.dtype), first, state.mu)
        return scaled, optax.ScaleByAdamState(optax.safe_increment(state.count), stored, second)

    return optax.GradientTransformation(init, update)
