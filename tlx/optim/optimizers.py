"""The optimizers: transformations of gradients into steps, before weight decay and the learning rate."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import optax
import optax.contrib

from tlx.base import tree
from tlx.optim.config import MuonConfig, OptimizerConfig
from tlx.optim.factored import scale_by_factored_rms
from tlx.optim.leaves import Leaf
from tlx.optim.per_layer import as_matrices
from tlx.optim.uncorrected_adam import scale_by_uncorrected_adam


class ParamGroup(NamedTuple):
    """Parameters that one transformation updates."""

    name: str
    """Name of the group's state in OptimizerState.parts: a path in checkpoints."""
    paths: tuple[str, ...]
    """Paths of the parameters."""
    transform: optax.GradientTransformation
    """The transformation of their gradients."""
    per_layer: bool
    """Whether it depends on a leaf's shape or norm, and so is applied to each layer of a stack alone."""
    trust_ratio: bool = False
    """Whether each matrix' step, weight decay included, is scaled to the norm of the matrix (LAMB)."""
    knows_stacks: bool = False
    """Whether the transformation itself tells the layers of a stack apart and need not be vectorised over them."""


def adamw(config: OptimizerConfig, leaves: Mapping[str, Leaf]) -> list[ParamGroup]:
    """AdamW: m / (sqrt(v) + eps), bias-corrected by default (Kingma and Ba 2015; Loshchilov and Hutter 2019)."""
    return [_adam(config, leaves)]


def lamb(config: OptimizerConfig, leaves: Mapping[str, Leaf]) -> list[ParamGroup]:
    """LAMB: AdamW's step, weight decay included, scaled to the norm of the matrix (You et al. 2020)."""
    return [_adam(config, leaves)._replace(name="lamb", trust_ratio=True)]


def adagrad(config: OptimizerConfig, leaves: Mapping[str, Leaf]) -> list[ParamGroup]:
    """Adagrad: g / sqrt(.1 + sum of g^2) (Duchi et al. 2011; .1 is TensorFlow's, which trained CTRL)."""
    transform = optax.scale_by_rss(initial_accumulator_value=0.1, eps=config.eps)
    return [ParamGroup("adagrad", tuple(leaves), transform, per_layer=False)]


def lion(config: OptimizerConfig, leaves: Mapping[str, Leaf]) -> list[ParamGroup]:
    """Lion: sign(beta1 m + (1 - beta1) g), with momentum decayed by beta2 (Chen et al. 2023)."""
    transform = optax.scale_by_lion(config.beta1, config.beta2, mu_dtype=config.momentum_dtype)
    return [ParamGroup("lion", tuple(leaves), transform, per_layer=False)]


def adafactor(config: OptimizerConfig, leaves: Mapping[str, Leaf]) -> list[ParamGroup]:
    """Adafactor: g / sqrt(factored mean of g^2), clipped, times the parameter's RMS (Shazeer and Stern 2018)."""
    cfg = config.adafactor
    steps = [
        scale_by_factored_rms(cfg.decay_exponent, cfg.min_dim_size_to_factor),
        optax.clip_by_block_rms(cfg.clipping_threshold),
    ]
    # Last, so that the clipped step is what is scaled.
    if cfg.multiply_by_parameter_scale:
        steps.append(optax.scale_by_param_block_rms())
    return [ParamGroup("adafactor", tuple(leaves), as_matrices(optax.chain(*steps), leaves), per_layer=True)]


def muon(config: OptimizerConfig, leaves: Mapping[str, Leaf]) -> list[ParamGroup]:
    """Muon: orthogonalised momentum for matrices between hidden vectors (Jordan et al. 2024), AdamW for the rest.

    Needs logical names, for by shape alone [D, N, H] and [N, H, D] cannot be distinguished.
    """
    unnamed = next((path for path, leaf in leaves.items() if leaf.names is None), None)
    if unnamed is not None:
        raise ValueError(f"muon needs parameters boxed with their logical names; {unnamed} has none")
    matrices = {path: leaf for path, leaf in leaves.items() if leaf.hidden_sides}
    # Vectorised over layers, a matrix' products have a batch dim of size 1 besides, with which XLA:CPU takes twice
    # as long. optax joins batch dims to one, which would move experts that lie on several devices.
    knows_stacks = not any("expert" in (leaf.names or ()) for leaf in matrices.values())
    dims = {path: _muon_dims(leaf, knows_stacks) for path, leaf in matrices.items()}

    def dims_of(updates: Any) -> Any:
        return tree.map_with_path(lambda path, _: dims[path], updates)

    def scale(updates: Any, params: Any) -> Any:
        return tree.map_with_path(lambda path, u: _muon_scale(config.muon, leaves[path]) * u, updates)

    orthogonal = optax.contrib.scale_by_muon(
        ns_steps=config.muon.ns_steps,
        beta=config.muon.beta,
        mu_dtype=config.momentum_dtype,
        weight_dimension_numbers=dims_of,
    )
    transform = optax.chain(orthogonal, optax.stateless(scale))
    # Tables, norms and biases: orthogonalised, every row of a vocabulary would move by as much.
    others = {path: leaf for path, leaf in leaves.items() if path not in dims}
    orthogonalised = ParamGroup("muon", tuple(dims), transform, per_layer=True, knows_stacks=knows_stacks)
    return [orthogonalised, _adam(config, others)]


def _muon_dims(leaf: Leaf, with_layers: bool) -> optax.contrib.MuonDimensionNumbers:
    """Return the input dims and the output dims of a matrix: heads and head_dim are one side.

    Dims that are neither, such as that of a stack's layers, are batch dims.
    """
    assert leaf.hidden_sides is not None
    first = 1 if with_layers and leaf.layers is not None else 0
    inputs, outputs = (tuple(first + dim for dim in side) for side in leaf.hidden_sides)
    return optax.contrib.MuonDimensionNumbers(inputs, outputs)


def _muon_scale(config: MuonConfig, leaf: Leaf) -> float:
    assert leaf.hidden_sides is not None
    inputs, outputs = (math.prod(leaf.shape[dim] for dim in side) for side in leaf.hidden_sides)
    if config.scale == "rms":
        # Steps of the RMS that AdamW's have (Liu et al. 2025), so that its learning rates carry over.
        return 0.2 * math.sqrt(max(inputs, outputs))
    return math.sqrt(max(1.0, outputs / inputs))


def _adam(config: OptimizerConfig, leaves: Mapping[str, Leaf]) -> ParamGroup:
    scale_by_moments = optax.scale_by_adam if config.bias_correction else scale_by_uncorrected_adam
    transform = scale_by_moments(config.beta1, config.beta2, config.eps, mu_dtype=config.momentum_dtype)
    return ParamGroup("adam", tuple(leaves), transform, per_layer=False)
