"""The optimizers: what turns gradients into directions, before the learning rate and weight decay."""

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


class ParamGroup(NamedTuple):
    """Leaves that one transformation serves. `by_layer`: it judges a leaf by its shape or norm, so that
    it must see the layers of a stack one by one; False where it works on each number alone. `adapts`: the
    step of each matrix, weight decay and all, is made as long as the matrix (before the rate)."""

    name: str
    paths: tuple[str, ...]
    transform: optax.GradientTransformation
    per_layer: bool
    trust_ratio: bool = False


def adamw(config: OptimizerConfig, leaves: Mapping[str, Leaf]) -> list[ParamGroup]:
    """m / (sqrt(v) + eps), moments with bias correction (Kingma and Ba 2015; Loshchilov and Hutter 2019)."""
    return [_adam(config, leaves)]


def lamb(config: OptimizerConfig, leaves: Mapping[str, Leaf]) -> list[ParamGroup]:
    """AdamW's step, decay included, as long as the matrix that it changes (You et al. 2020)."""
    return [_adam(config, leaves)._replace(name="lamb", trust_ratio=True)]


def adagrad(config: OptimizerConfig, leaves: Mapping[str, Leaf]) -> list[ParamGroup]:
    """g / sqrt(.1 + sum of g^2) (Duchi et al. 2011; .1 as TensorFlow's, with which CTRL was trained)."""
    transform = optax.scale_by_rss(initial_accumulator_value=0.1, eps=config.eps)
    return [ParamGroup("adagrad", tuple(leaves), transform, per_layer=False)]


def lion(config: OptimizerConfig, leaves: Mapping[str, Leaf]) -> list[ParamGroup]:
    """sign(beta1 m + (1 - beta1) g), momentum by beta2 (Chen et al. 2023)."""
    transform = optax.scale_by_lion(config.beta1, config.beta2, mu_dtype=config.momentum_dtype)
    return [ParamGroup("lion", tuple(leaves), transform, per_layer=False)]


def adafactor(config: OptimizerConfig, leaves: Mapping[str, Leaf]) -> list[ParamGroup]:
    """g / sqrt(row and column means of g^2), clipped, times the parameter's RMS (Shazeer and Stern 2018)."""
    cfg = config.adafactor
    steps = [
        scale_by_factored_rms(cfg.decay_exponent, cfg.min_dim_size_to_factor),
        optax.clip_by_block_rms(cfg.clipping_threshold),
    ]
    if cfg.multiply_by_parameter_scale:
        steps.append(optax.scale_by_param_block_rms())
    return [ParamGroup("adafactor", tuple(leaves), as_matrices(optax.chain(*steps), leaves), per_layer=True)]


def muon(config: OptimizerConfig, leaves: Mapping[str, Leaf]) -> list[ParamGroup]:
    """Momentum made orthogonal, for matrices between hidden vectors (Jordan et al. 2024); AdamW for the rest.

    Needs logical names: by shape alone [D, N, H] and [N, H, D] cannot be told apart.
    """
    unnamed = next((path for path, leaf in leaves.items() if leaf.names is None), None)
    if unnamed is not None:
        raise ValueError(f"muon needs parameters boxed with their logical names; {unnamed} has none")
    sides = {path: leaf.hidden_sides for path, leaf in leaves.items()}
    dims = {path: optax.contrib.MuonDimensionNumbers(*side) for path, side in sides.items() if side}

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
    rest = {path: leaf for path, leaf in leaves.items() if path not in dims}
    return [ParamGroup("muon", tuple(dims), transform, per_layer=True), _adam(config, rest)]


def _muon_scale(config: MuonConfig, leaf: Leaf) -> float:
    inputs, outputs = (math.prod(leaf.shape[dim] for dim in side) for side in leaf.hidden_sides)
    if config.scale == "rms":
        return 0.2 * math.sqrt(max(inputs, outputs))
    return math.sqrt(max(1.0, outputs / inputs))


def _adam(config: OptimizerConfig, leaves: Mapping[str, Leaf]) -> ParamGroup:
    transform = optax.scale_by_adam(config.beta1, config.beta2, config.eps, mu_dtype=config.momentum_dtype)
    return ParamGroup("adam", tuple(leaves), transform, per_layer=False)
