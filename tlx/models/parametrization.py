"""How a model of another width or depth starts and learns, so that one learning rate fits all of them.

mup: Yang et al. 2203.03466, table 8. With m = width / base_width, matrices between hidden vectors start with
a variance of 1 / m of the base's and, under Adam, learn at 1 / m of its rate; logits are divided by m; what
reads ids (tables), vectors and biases stay. completep: Dey et al. 2505.01618, table 1 (alpha = 1): also,
with l = layers / base_layers, what a part adds to the residual stream is divided by l. At the base's width
and depth both are the standard parametrisation. Width grows by heads of one size, so that attention logits
need no scale of their own. The decay per step (rate times weight_decay) does not change with m.
"""

import dataclasses
import math
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from tlx.base.errors import ConfigError, one_of
from tlx.optim.config import OptimizerConfig
from tlx.optim.leaves import Leaf, describe

if TYPE_CHECKING:
    from tlx.models.config import ModelConfig

NAMES = ("standard", "mup", "completep")


@dataclasses.dataclass(frozen=True)
class ParametrizationConfig:
    """name: how it depends on the size; base_width, base_layers: where it is the standard one."""

    name: Literal["standard", "mup", "completep"] = "standard"
    base_width: int = 128
    base_layers: int = 4


class Scales(NamedTuple):
    """What a model has that its base has not."""

    width: float = 1.0  # m
    layers: float = 1.0  # l; 1 where depth is left to the usual initialisation


def scales(cfg: "ModelConfig") -> Scales:
    """m and l of a model."""
    part = cfg.parametrization
    if part.name == "standard":
        return Scales()
    width = cfg.width / part.base_width
    return Scales(width, cfg.num_layers / part.base_layers if part.name == "completep" else 1.0)


def check(cfg: "ModelConfig") -> None:
    """Raises ConfigError naming the field, its value and what is legal."""
    part = cfg.parametrization
    if part.name not in NAMES:
        raise ConfigError(one_of("model.parametrization.name", part.name, NAMES))
    for name in ("base_width", "base_layers"):
        if getattr(part, name) < 1:
            raise ConfigError(f"model.parametrization.{name} = {getattr(part, name)} must be 1 or more")
    if part.name == "completep" and cfg.block_layout not in ("pre", "parallel"):
        raise ConfigError(
            f"model.parametrization.name = 'completep' with model.block_layout = {cfg.block_layout!r}: "
            "only 'pre' and 'parallel' have a residual stream to scale"
        )
    if part.name == "completep" and cfg.decoder_layers != cfg.num_layers and cfg.kind == "encoder_decoder":
        raise ConfigError("model.parametrization.name = 'completep' needs two towers of equal depth")


def lr_multipliers(cfg: "ModelConfig", optimizer: OptimizerConfig, boxed_params: Any) -> dict[str, float]:
    """{path: factor of the learning rate} of the parameters that do not learn at the optimizer's own."""
    m = scales(cfg).width
    if m == 1.0:
        return {}
    leaves = describe(boxed_params).values()
    return {leaf.path: m ** _power(leaf, optimizer) for leaf in leaves if _reads_hidden(leaf)}


def _reads_hidden(leaf: Leaf) -> bool:
    """Whether a matrix's inputs are a hidden vector, whose width grows; tables and the output are not."""
    if not leaf.is_matrix or leaf.names is None:
        return False
    sides = [leaf.names[side[0]] for side in leaf.sides if leaf.names[side[0]] != "expert"]
    return any(name in ("embed", "mlp", "heads") for name in sides[:-1])


def _power(leaf: Leaf, optimizer: OptimizerConfig) -> float:
    """Of m, in the rate with which an update of this optimizer changes hidden vectors as it does at m = 1.

    An update of rank one and entries of size 1 (Adam's, Lion's) adds up over the inputs: 1 / m. Muon's has
    orthogonal rows: "rms" entries want 1 / sqrt(m), "spectral" nothing. Adafactor's is relative to the
    parameter's own size, which has half of it.
    """
    if optimizer.name == "muon" and leaf.hidden_sides is not None:
        return -0.5 if optimizer.muon.scale == "rms" else 0.0
    return -0.5 if optimizer.name == "adafactor" and optimizer.adafactor.multiply_by_parameter_scale else -1.0


def base_std(cfg: "ModelConfig") -> float:
    """Standard deviation of an untied output kernel: logits are divided by m, so that it stays the base's."""
    width = cfg.width / scales(cfg).width
    return 1 / math.sqrt(width) if cfg.init.kind == "fan_in" else cfg.init.stddev
