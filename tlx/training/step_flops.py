"""FLOPs of a training step's matrix products, counted in its trace."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from tlx import parallel
from tlx.adapt.config import AdaptConfig
from tlx.adapt.parts import split
from tlx.models.flops_traced import matmul_flops
from tlx.training import carry as carries
from tlx.training.state import boxed_params, frozen_params
from tlx.training.step import merge_params

Shapes = Mapping[str, jax.ShapeDtypeStruct]
_FULL = AdaptConfig()


def training_flops(module: Any, batch: Shapes, adapt: AdaptConfig = _FULL) -> int:
    """Count the model FLOPs of a step: matrix products forward and twice backward, nothing recomputed.

    Frozen parameters (of an adapted base model, of a teacher) have no gradient of their own, and there is no
    backward pass below the first trainable parameter.

    Args:
        module: Module of the objective or task.
        batch: Abstract arrays [B, ...] by name.
        adapt: Which parameters are trained.

    Returns:
        FLOPs of all devices together, two for each multiply-add.
    """
    if adapt.method != "full":
        return _adapted_flops(module, batch, adapt)
    # Twice the forward's products go backward: one for the gradient of either factor.
    all_forward = matmul_flops(lambda: trace_forward(module, batch))
    if not frozen_params(module):
        return 3 * all_forward
    return 2 * matmul_flops(lambda: trace_forward(module, batch, frozen=False)) + all_forward


def trace_forward(module: Any, batch: Shapes, frozen: bool = True) -> Any:
    """Return the loss terms of zeros, with keys as in a step: traced for shapes or FLOPs, never computed.

    Args:
        module: Module of the objective or task.
        batch: Abstract arrays [B, ...] by name.
        frozen: Whether frozen parameters are there; a module whose teacher is not has other terms.

    Returns:
        Terms by name.
    """
    boxed = boxed_params(module, batch) | (frozen_params(module) if frozen else {})
    zeros = {name: _zeros(leaf) for name, leaf in batch.items()}
    return _terms(module, jax.tree.map(_zeros, parallel.unbox(boxed)), zeros, _keys(batch))


def summed_loss(
    module: Any, params: Any, batch: Mapping[str, jax.Array], keys: jax.Array | None
) -> jax.Array:
    """Compute the loss as a sum over tokens, whose gradient takes the matrix products of a step.

    Args:
        module: Module of the objective or task.
        params: Trainable and frozen parameters in one tree.
        batch: Arrays [B, ...] by name.
        keys: PRNG keys [B]; None draws nothing.

    Returns:
        float32 [].
    """
    terms = _terms(module, params, batch, keys)
    parts = [
        term.loss_weight * jnp.asarray(term.sum, jnp.float32) for term in terms.values() if term.loss_weight
    ]
    return sum(parts, start=jnp.zeros(()))


def _adapted_flops(module: Any, batch: Shapes, adapt: AdaptConfig) -> int:
    """Count the FLOPs of the gradient with respect to what is trained."""
    # Products of a kernel are not in the trace, and rematerialised ones would count twice.
    execution = dataclasses.replace(module.model.execution, remat="none", attention="xla")
    module = module.clone(model=dataclasses.replace(module.model, execution=execution))
    trainable, frozen = split(adapt, parallel.unbox(boxed_params(module, batch)))
    zeros = {name: _zeros(leaf) for name, leaf in batch.items()}

    def loss(params: Any) -> jax.Array:
        return summed_loss(module, merge_params(params, jax.tree.map(_zeros, frozen)), zeros, _keys(batch))

    return matmul_flops(jax.grad(loss), trainable)


def _terms(module: Any, params: Any, batch: Mapping[str, jax.Array], keys: jax.Array | None) -> Any:
    carry = carries.initial_carry(module, _num_rows(batch))
    return module.apply({"params": params}, batch, carry, keys)[0]


def _keys(batch: Shapes) -> jax.Array:
    """PRNG keys [B], so that dropout is traced."""
    return jax.random.split(jax.random.key(0), _num_rows(batch))


def _num_rows(batch: Mapping[str, Any]) -> int:
    return next(iter(batch.values())).shape[0]


def _zeros(leaf: jax.ShapeDtypeStruct) -> jax.Array:
    return jnp.zeros(leaf.shape, leaf.dtype)
