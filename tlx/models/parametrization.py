"""Initial values and learning rates over width and depth, so that one learning rate fits all sizes.

mup: Yang et al. 2203.03466, table 8. With m = width / base_width, matrices between hidden vectors start
    with a variance of 1 / m of the base's and, under Adam, learn at 1 / m of its learning rate; logits are
    divided by m; tables of ids, vectors and biases stay. completep: Dey et al. 2505.01618, table 1 (alpha =
    1): also, with l = layers / base_layers, what a part adds to the residual stream is divided by l. At the
    base's width and depth both are the standard parametrisation. Width grows by heads of one size, so that
    attention logits need no scale of their own. The decay per step (learning rate times weight decay) does
    not change with m.
"""

import math
from typing import Any

from tlx.models.config import ModelConfig
from tlx.optim.config import OptimizerConfig
from tlx.optim.leaves import Leaf, describe


def lr_multipliers(cfg: ModelConfig, optimizer: OptimizerConfig, boxed_params: Any) -> dict[str, float]:
    """Compute the factors of the learning rate that the parametrisation asks for.

    Args:
        cfg: the model.
        optimizer: its name decides the power of m.
        boxed_params: parameters with the logical names of their dims.

    Returns:
        {path: factor} of the parameters that do not learn at the optimizer's own rate.
    """
    m = cfg.scales.width
    if m == 1.0:
        return {}
    leaves = describe(boxed_params).values()
    return {leaf.path: m ** _power(leaf, optimizer) for leaf in leaves if _reads_hidden(leaf)}


def base_std(cfg: ModelConfig) -> float:
    """Return the initial standard deviation of an untied output kernel.

    It is the base's at any width: logits are divided by m instead.
    """
    base_width = cfg.width / cfg.scales.width
    return 1 / math.sqrt(base_width) if cfg.init.kind == "fan_in" else cfg.init.stddev


def _reads_hidden(leaf: Leaf) -> bool:
    """Whether a matrix reads hidden vectors, whose width grows; tables and the output do not."""
    if not leaf.is_matrix or leaf.names is None:
        return False
    # Experts are matrices of their own: their dim is no side.
    sides = [leaf.names[side[0]] for side in leaf.sides if leaf.names[side[0]] != "expert"]
    # The last side is the output's; one of the others must be a hidden dim.
    return any(name in ("embed", "mlp", "heads") for name in sides[:-1])


def _power(leaf: Leaf, optimizer: OptimizerConfig) -> float:
    """Return the power of m in the rate at which an update changes hidden vectors as it does at m = 1.

    An update of rank one and entries of size 1 (Adam's, Lion's) adds up over the inputs: 1 / m. Muon's has
    orthogonal rows: "rms" entries want 1 / sqrt(m), "spectral" nothing. Adafactor's is relative to the
    parameter's own size, which has half of it.
    """
    if optimizer.name == "muon" and leaf.hidden_sides is not None:
        return -0.5 if optimizer.muon.scale == "rms" else 0.0
    return -0.5 if optimizer.name == "adafactor" and optimizer.adafactor.multiply_by_parameter_scale else -1.0
