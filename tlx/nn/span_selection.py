"""The best spans of a text of which no two cross, in parallel.

Two spans cross where they overlap and neither contains the other. Taking spans in the order of their scores, and each
that crosses none taken before (Lee et al. 2017, section 5), is a loop over all spans. Here a round takes all at once
that score more than what they cross and what is not left out, and leaves out what crosses these; a few rounds decide
about all.

Shapes: Q positions of a text, W lengths of a span: the span at [q, w] has the positions q to q + w.
"""

import jax
import jax.numpy as jnp


def non_crossing(scores_QW: jax.Array, allowed_QW: jax.Array) -> jax.Array:
    """Select spans greedily by their scores.

    Args:
        scores_QW: Score of each span; of equal ones the first in the array counts as higher.
        allowed_QW: Whether a span may be selected.

    Returns:
        int32 [Q, W]: 0 for spans that are not selected; of the others the higher, the better.
    """
    count = scores_QW.size
    order = jnp.argsort(-jnp.where(allowed_QW, scores_QW, -jnp.inf).ravel(), stable=True)
    ranks = jnp.zeros(count, jnp.int32).at[order].set(count - jnp.arange(count, dtype=jnp.int32))
    # A span that is left out has the priority 0, and crosses nothing.
    priority_QW = jnp.where(allowed_QW, ranks.reshape(scores_QW.shape), 0)

    def is_open(state: tuple[jax.Array, jax.Array]) -> jax.Array:
        taken_QW, live_QW = state
        return jnp.any((live_QW > 0) & ~taken_QW)

    def decide(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        taken_QW, live_QW = state
        taken_QW = taken_QW | ((live_QW > 0) & (live_QW > highest_crossing(live_QW)))
        crosses_QW = highest_crossing(jnp.where(taken_QW, live_QW, 0)) > 0
        return taken_QW, jnp.where(crosses_QW & ~taken_QW, 0, live_QW)

    start = (jnp.zeros(scores_QW.shape, bool), priority_QW)
    taken_QW, _ = jax.lax.while_loop(is_open, decide, start)
    return jnp.where(taken_QW, priority_QW, 0)


def highest_crossing(priority_QW: jax.Array) -> jax.Array:
    """Return the highest priority of what each span crosses, 0 where that is nothing.

    Args:
        priority_QW: Above 0, or 0 for a span that is not there.

    Returns:
        An array like priority_QW.
    """
    length, widths = priority_QW.shape
    # [q, w]: the highest of the spans that begin at q and are longer than that at w.
    longer_QW = jax.lax.cummax(priority_QW, axis=1, reverse=True)[:, 1:]
    longer_QW = jnp.pad(longer_QW, ((0, 0), (0, 1)))
    highest_QW = jnp.zeros_like(priority_QW)
    for shift in range(1, min(widths, length)):
        # Those that begin `shift` later, inside, and end behind.
        inside = jnp.pad(longer_QW[shift:, : widths - shift], ((0, shift), (shift, 0)))
        # Those that begin `shift` earlier and end inside, before the end: from the width `shift` on, growing by one
        # with the width of the span.
        reaching = jax.lax.cummax(priority_QW[:, shift:], axis=1)
        reaching = jnp.pad(reaching, ((0, 0), (0, shift - 1)), mode="edge")
        before = jnp.pad(reaching[: length - shift], ((shift, 0), (1, 0)))
        highest_QW = jnp.maximum(highest_QW, jnp.maximum(inside, before))
    return highest_QW
