"""What a training step computes: FLOPs of its matrix products, counted in its trace."""

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
    """Of a step, nothing computed twice: matrix products forward and twice backward, where all is trained.

    What is frozen has no gradient of its own, and beneath the first trained parameter there is no way back:
    of a base that is adapted, and of a teacher.
    """
    if adapt.method != "full":
        return _adapted_flops(module, batch, adapt)
    all_forward = matmul_flops(lambda: trace_forward(module, batch))
    if not frozen_params(module):
        return 3 * all_forward
    return 2 * matmul_flops(lambda: trace_forward(module, batch, frozen=False)) + all_forward


def trace_forward(module: Any, batch: Shapes, frozen: bool = True) -> Any:
    """Loss terms of zeros, with keys as a step has: to be traced, for shapes or FLOPs, not to be computed."""
    boxed = boxed_params(module, batch) | (frozen_params(module) if frozen else {})
    zeros = {name: _zeros(leaf) for name, leaf in batch.items()}
    return _terms(module, jax.tree.map(_zeros, parallel.unbox(boxed)), zeros, _keys(batch))


def _adapted_flops(module: Any, batch: Shapes, adapt: AdaptConfig) -> int:
    """Of the gradient itself, with respect to what is trained."""
    execution = dataclasses.replace(module.model.execution, remat="none", attention="xla")
    module = module.clone(model=dataclasses.replace(module.model, execution=execution))
    trained, kept = split(adapt, parallel.unbox(boxed_params(module, batch)))

    zeros = {name: _zeros(leaf) for name, leaf in batch.items()}

    def loss(params: Any) -> jax.Array:
        return summed_loss(module, merge_params(params, jax.tree.map(_zeros, kept)), zeros, _keys(batch))

    return matmul_flops(jax.grad(loss), trained)


def summed_loss(
    module: Any, params: Any, batch: Mapping[str, jax.Array], keys: jax.Array | None
) -> jax.Array:
    """float32 []: the loss as a sum, whose gradient is computed as a step's is."""
    terms = _terms(module, params, batch, keys)
    parts = [
        term.loss_weight * jnp.asarray(term.sum, jnp.float32) for term in terms.values() if term.loss_weight
    ]
    return sum(parts, start=jnp.zeros(()))


def _terms(module: Any, params: Any, batch: Mapping[str, jax.Array], keys: jax.Array | None) -> Any:
    carry = carries.initial_carry(module, _rows(batch))
    return module.apply({"params": params}, batch, carry, keys)[0]


def _keys(batch: Shapes) -> jax.Array:
    return jax.random.split(jax.random.key(0), _rows(batch))


def _rows(batch: Mapping[str, Any]) -> int:
    return next(iter(batch.values())).shape[0]


def _zeros(leaf: jax.ShapeDtypeStruct) -> jax.Array:
    return jnp.zeros(leaf.shape, leaf.dtype)
