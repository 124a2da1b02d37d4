"""Weights of classes in the loss, for labels that are not equally frequent."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from tlx.base.errors import ConfigError
from tlx.base.term import Term

BALANCED = ("balanced",)  # the value of class_weights before it is replaced by numbers


def check_weights(class_weights: Sequence[float | str], num_classes: int) -> None:
    """Raise ConfigError unless the weights are "balanced", or positive numbers for all classes (0: unknown)."""
    if not class_weights or tuple(class_weights) == BALANCED:
        return
    shown = f"objective.class_weights = {tuple(class_weights)}"
    numbers = [weight for weight in class_weights if isinstance(weight, int | float)]
    if len(numbers) < len(class_weights):
        raise ConfigError(f"{shown} must be 'balanced' or numbers")
    if not all(0 < weight < float("inf") for weight in numbers):
        raise ConfigError(f"{shown} must be finite and above 0")
    if num_classes and len(numbers) != num_classes:
        raise ConfigError(f"{shown} must have one weight for each of the {num_classes} classes")


def numeric_weights(class_weights: Sequence[float | str], num_classes: int) -> tuple[float, ...]:
    """Return the weights as numbers; () where they are not known yet, as before the records are read."""
    numbers = tuple(weight for weight in class_weights if isinstance(weight, int | float))
    return numbers if len(numbers) == num_classes else ()


def balanced_weights(labels: np.ndarray, num_classes: int) -> tuple[float, ...]:
    """Return N / (C n_c) of each class: the weights by which all classes count equally (King and Zeng 2001).

    As scikit-learn's class_weight="balanced". A class without a record has the weight 1.

    Args:
        labels: int [N], class indices.
        num_classes: Number of classes C.

    Returns:
        C weights.
    """
    counts = np.bincount(labels, minlength=num_classes)
    return tuple(float(len(labels) / (num_classes * count)) if count else 1.0 for count in counts)


def balanced_set_weights(labels_NC: np.ndarray) -> tuple[float, ...]:
    """Return, for sets of labels, how many records lack each class for one that has it; 1 where none has it."""
    present = np.sum(labels_NC > 0, axis=0)
    absent = len(labels_NC) - present
    return tuple(float(a / p) if a and p else 1.0 for a, p in zip(absent, present, strict=True))


def weighted_cross_entropy(
    logits: jax.Array,
    label: jax.Array,
    weights: jax.Array,
    smoothing: float = 0.0,
    class_weights: Sequence[float] = (),
) -> Term:
    """Compute the cross-entropy of classes as PyTorch's CrossEntropyLoss with `weight` does.

    Formula, with w of class_weights and v of `weights`:
        sum_i v_i ((1 - s) w_{y_i} nll_i(y_i) + s / C sum_c w_c nll_i(c)) / sum_i v_i w_{y_i}

    Args:
        logits: float32 [..., C].
        label: int32 [...], class indices.
        weights: float32 [...], 0 for labels that do not count.
        smoothing: Label smoothing s.
        class_weights: Weight of each class, [C]; empty is 1 for all.

    Returns:
        The term of the loss.
    """
    log_p = jax.nn.log_softmax(logits)
    chosen = jnp.take_along_axis(log_p, label[..., None], axis=-1)[..., 0]
    if not class_weights:
        losses = -(1 - smoothing) * chosen - smoothing * jnp.mean(log_p, axis=-1)
        return Term(jnp.sum(losses * weights), jnp.sum(weights), 1.0)
    weights_C = jnp.asarray(class_weights, jnp.float32)
    weight_of_label = weights_C[label]
    losses = -(1 - smoothing) * weight_of_label * chosen - smoothing * jnp.mean(weights_C * log_p, axis=-1)
    return Term(jnp.sum(losses * weights), jnp.sum(weight_of_label * weights), 1.0)
