"""Divergences of a student's distribution from its teacher's, at a temperature (Hinton et al. 2015, section 2)."""

import jax
import jax.numpy as jnp

from tlx.base.term import Term


def class_divergences(student: jax.Array, teacher: jax.Array, temperature: float, dim: int = -1) -> jax.Array:
    """Compute KL(p_T || q_T) in nats.

    Args:
        student: Logits of q.
        teacher: Logits of p, of the same shape.
        temperature: T, above 0.
        dim: The dim of the outcomes.

    Returns:
        float32, without this dim.
    """
    log_q = jax.nn.log_softmax(student / temperature, axis=dim)
    log_p = jax.nn.log_softmax(teacher / temperature, axis=dim)
    return jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=dim)


def binary_divergences(student: jax.Array, teacher: jax.Array, temperature: float) -> jax.Array:
    """Compute the mean over the last dim of KL(p_T || q_T) of each class, present or not.

    Args:
        student: Logits [..., C].
        teacher: Logits [..., C].
        temperature: T, above 0.

    Returns:
        float32 [...].
    """
    of_student, of_teacher = (jnp.stack([x, jnp.zeros_like(x)], axis=-1) for x in (student, teacher))
    return jnp.mean(class_divergences(of_student, of_teacher, temperature), axis=-1)


def weighted(divergences: jax.Array, weights: jax.Array, temperature: float) -> Term:
    """Average divergences.

    Args:
        divergences: A value for each example, token or position.
        weights: Weight of each, of the same shape.
        temperature: T.

    Returns:
        The mean over the weights, with the weight T^2 in the loss.
    """
    return Term(jnp.sum(divergences * weights), jnp.sum(weights), temperature**2)
