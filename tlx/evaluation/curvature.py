"""Curvature of the loss in the parameters of each layer, which says how many bits a layer needs (Q-BERT).

Shen et al. 2020, arXiv:1909.05840, 3.1: the top eigenvalue of each layer's block of the Hessian by power iteration,
on several parts of the training data; a layer's sensitivity is |mean| + standard deviation of its eigenvalues, and
the more sensitive layers get more bits.

A product of the Hessian with a vector is the derivative of the gradient in the vector's direction. Layers are stacked
(nn/stack.py), so that a vector of one layer is one that is zero in the others, and one compiled program serves all.

Shapes: I power iterations, J batches of a part of the data.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tlx.base import tree
from tlx.base.term import Term, mean
from tlx.optim.leaves import STACK

Batch = dict[str, Any]
LossFn = Callable[[Any, Batch], jax.Array]
"""(parameters, batch) -> float32 []."""


class LayerCurvature(NamedTuple):
    """The spectrum's top at one layer."""

    stack: str
    """Path of the layer's stack."""
    layer: int
    """Index of the layer, from below."""
    eigenvalues: tuple[float, ...]
    """Top eigenvalue on each part of the data: the one of largest magnitude, with its sign."""

    @property
    def mean(self) -> float:
        """Mean eigenvalue; below 0 the parameters are at no minimum of the loss."""
        return float(np.mean(self.eigenvalues))

    @property
    def deviation(self) -> float:
        """Standard deviation of the eigenvalues."""
        return float(np.std(self.eigenvalues))

    @property
    def sensitivity(self) -> float:
        """Omega of equation 2: |mean| + standard deviation."""
        return abs(self.mean) + self.deviation


def module_loss(module: Any) -> LossFn:
    """Return the training loss of a module without dropout, of batches that carry nothing from one to the next."""

    def loss(params: Any, batch: Batch) -> jax.Array:
        terms, _ = module.apply({"params": params}, batch, None, None)
        parts = [
            term.loss_weight * mean(Term(term.sum, jax.lax.stop_gradient(term.weight)))
            for term in terms.values()
            if term.loss_weight
        ]
        return jnp.sum(jnp.stack(parts))

    return loss


def stacks_of(params: Any) -> list[str]:
    """Return the paths of the stacked layers of a tree of parameters, such as "model/encoder/blocks"."""
    paths = (path.split("/") for path in tree.flatten(params))
    stacks = ["/".join(names[: names.index(STACK) + 1]) for names in paths if STACK in names[:-1]]
    return list(dict.fromkeys(stacks))


@functools.partial(jax.jit, static_argnames=("loss", "stack", "num_iterations"))
def power_iterations(
    loss: LossFn, params: Any, batches: Batch, key: jax.Array, stack: str, num_iterations: int
) -> jax.Array:
    """Estimate the top eigenvalue of every layer's block of the Hessian.

    v <- H v / |H v| from a normal vector, and the Rayleigh quotient v H v at each step.

    Args:
        loss: Loss of one batch, whose mean over `batches` is differentiated.
        params: Parameters {"model": ..., "heads": ...}.
        batches: Arrays [J, B, ...]: J batches.
        key: Key of the first vectors.
        stack: Path of the stack.
        num_iterations: I.

    Returns:
        float32[L, I]: the estimates of each layer, the last of which is the best.
    """
    flat = tree.flatten(params)
    blocks = {path: leaf for path, leaf in flat.items() if path.startswith(stack + "/")}
    num_layers = next(iter(blocks.values())).shape[0]

    # Rematerialised, so that the memory is that of one batch.
    @jax.checkpoint
    def add(total: jax.Array, batch: Batch, blocks: dict[str, jax.Array]) -> jax.Array:
        return total + loss(tree.unflatten({**flat, **blocks}), batch)

    def mean_loss(blocks: dict[str, jax.Array]) -> jax.Array:
        total, _ = jax.lax.scan(lambda sum_, batch: (add(sum_, batch, blocks), None), jnp.zeros(()), batches)
        return total / next(iter(batches.values())).shape[0]

    def of_layer(numbers: tuple[jax.Array, jax.Array]) -> jax.Array:
        layer, layer_key = numbers

        def product(vector: dict[str, jax.Array]) -> dict[str, jax.Array]:
            tangent = {path: jnp.zeros_like(x).at[layer].set(vector[path]) for path, x in blocks.items()}
            # Forward over reverse: one more pass than a gradient, whatever the number of parameters.
            _, changes = jax.jvp(jax.grad(mean_loss), (blocks,), (tangent,))
            return {path: x[layer] for path, x in changes.items()}

        def iterate(vector: dict[str, jax.Array], _: None) -> tuple[dict[str, jax.Array], jax.Array]:
            image = product(vector)
            return _normalised(image), _dot(vector, image)

        keys = jax.random.split(layer_key, len(blocks))
        drawn = {
            path: jax.random.normal(leaf_key, x.shape[1:], x.dtype)
            for leaf_key, (path, x) in zip(keys, blocks.items(), strict=True)
        }
        return jax.lax.scan(iterate, _normalised(drawn), None, num_iterations)[1]

    # One layer after the other: tangents of all at once would need the memory of all.
    return jax.lax.map(of_layer, (jnp.arange(num_layers), jax.random.split(key, num_layers)))


def curvature(
    loss: LossFn, params: Any, parts: Sequence[Sequence[Batch]], num_iterations: int, seed: int = 0
) -> list[LayerCurvature]:
    """Measure the top of the spectrum of every layer on several parts of the data.

    Args:
        loss: As `power_iterations` has it.
        params: Parameters {"model": ..., "heads": ...}.
        parts: Batches of each part of the data, as many in each.
        num_iterations: Power iterations.
        seed: Seed of the first vectors.

    Returns:
        A LayerCurvature for each layer of each stack.
    """
    rows = []
    for stack in stacks_of(params):
        estimates = []
        for number, part in enumerate(parts):
            batches = {name: np.stack([batch[name] for batch in part]) for name in part[0]}
            key = jax.random.fold_in(jax.random.key(seed), number)
            eigenvalues = power_iterations(loss, params, batches, key, stack, num_iterations)
            estimates.append(np.asarray(eigenvalues)[:, -1])
        by_layer = np.stack(estimates, axis=1)
        rows += [LayerCurvature(stack, i, tuple(map(float, values))) for i, values in enumerate(by_layer)]
    return rows


def mixed_bits(rows: Sequence[LayerCurvature], low: int, high: int) -> tuple[int, ...]:
    """Give the more sensitive half of the layers `high` bits and the others `low`.

    Args:
        rows: The layers of one stack, from below.
        low: Bits of the less sensitive half; with an odd number of layers it is the smaller one.
        high: Bits of the more sensitive half.

    Returns:
        Bits of each layer: model.quantization.layer_bits.
    """
    order = sorted(range(len(rows)), key=lambda i: -rows[i].sensitivity)
    chosen = set(order[: -(-len(rows) // 2)])
    return tuple(high if i in chosen else low for i in range(len(rows)))


def _dot(a: dict[str, jax.Array], b: dict[str, jax.Array]) -> jax.Array:
    return jnp.sum(jnp.stack([jnp.vdot(a[path], b[path]).astype(jnp.float32) for path in a]))


def _normalised(vector: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Divide a vector by its norm; one of zeros stays zero."""
    norm = jnp.sqrt(_dot(vector, vector))
    scale = jnp.where(norm > 0, 1 / jnp.where(norm > 0, norm, 1), 0)
    return {path: x * scale.astype(x.dtype) for path, x in vector.items()}
