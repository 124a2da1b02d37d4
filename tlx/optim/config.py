"""Config of the optimizer and its schedule."""

import dataclasses
from typing import Annotated, Literal

from tlx.base.errors import ConfigError
from tlx.base.lookup import Table

# (OptimizerConfig, {path: Leaf}) -> the groups of leaves, each with its transformation: see
# optimizers.ParamGroup.
OPTIMIZERS = Table(
    "optimizer.name",
    {
        "adamw": "tlx.optim.optimizers:adamw",
        "adafactor": "tlx.optim.optimizers:adafactor",
        "adagrad": "tlx.optim.optimizers:adagrad",
        "lamb": "tlx.optim.optimizers:lamb",
        "lion": "tlx.optim.optimizers:lion",
        "muon": "tlx.optim.optimizers:muon",
    },
)

# Those whose moments are corrected for their start at 0.
WITH_BIAS_CORRECTION = ("adamw", "lamb", "muon")

# (ScheduleConfig, SchedulePoint) -> fraction of the peak learning rate: see schedule.SchedulePoint.
SCHEDULES = Table(
    "optimizer.schedule.name",
    {
        "constant": "tlx.optim.schedule:constant",
        "linear": "tlx.optim.schedule:linear",
        "polynomial": "tlx.optim.schedule:polynomial",
        "cosine": "tlx.optim.schedule:cosine",
        "inverse_sqrt": "tlx.optim.schedule:inverse_sqrt",
        "wsd": "tlx.optim.schedule:warmup_stable_decay",
    },
)

PathRule = tuple[str, float]


@dataclasses.dataclass(frozen=True)
class ScheduleConfig:
    """The learning rate over the run, as a fraction of OptimizerConfig.learning_rate."""

    name: Annotated[str, SCHEDULES] = "cosine"
    """constant, linear, polynomial, cosine, inverse_sqrt or wsd (warmup, stable, decay)."""
    warmup: float = 0.02
    """Length of the warm-up: below 1 a fraction of the run, from 1 up a number of steps."""
    warmup_shape: Literal["linear", "constant"] = "linear"
    """linear rises to the peak; constant has the peak from the first update on, and only delays the decay (T5's
    inverse square root, 1 / sqrt(max(step, 10,000)))."""
    decay_from: Literal["warmup", "start"] = "warmup"
    """Origin of the decay of linear, polynomial and cosine: the end of the warm-up, or the start of the run, so that
    the rate drops to 1 - W / T of the peak after a warm-up of W of T steps (BERT's and ALBERT's code)."""
    power: float = 1.0
    """Exponent of the schedule polynomial, more than 0; 1 is linear."""
    final_fraction: float = 0.1
    """Fraction of the peak that linear, polynomial, cosine and wsd end on, 0 to 1."""
    cooldown: float = 0.2
    """Length of wsd's final decay, in the same units as warmup."""

    def validate(self) -> None:
        """Raise ConfigError where a value is not usable; lengths are checked once the run's length is known."""
        SCHEDULES.load(self.name, allow=None)
        for field in ("warmup", "cooldown"):
            value = getattr(self, field)
            if value < 0 or value > 1 and value != int(value):
                raise ConfigError(
                    f"optimizer.schedule.{field} = {value} must be a fraction of the run below 1, "
                    "or a whole number of steps"
                )
        if self.power <= 0:
            raise ConfigError(f"optimizer.schedule.power = {self.power} must be more than 0")
        if not 0 <= self.final_fraction <= 1:
            raise ConfigError(
                f"optimizer.schedule.final_fraction = {self.final_fraction} must be 0 to 1: a "
                "fraction of the peak"
            )


@dataclasses.dataclass(frozen=True)
class AdafactorConfig:
    """Adafactor (Shazeer and Stern 2018)."""

    decay_exponent: float = 0.8
    """c in 1 - t^-c, the decay of the second moment at step t."""
    min_dim_size_to_factor: int = 128
    """Matrices whose smaller side is at least so large have a factored second moment; 2 or more."""
    clipping_threshold: float = 1.0
    """Largest root mean square of an update."""
    multiply_by_parameter_scale: bool = True
    """Whether updates are multiplied by the root mean square of the parameter."""


@dataclasses.dataclass(frozen=True)
class MuonConfig:
    """Muon (Jordan et al. 2024)."""

    beta: float = 0.95
    """Nesterov momentum, at least 0 and less than 1."""
    ns_steps: int = 5
    """Newton-Schulz iterations, 1 or more."""
    scale: Literal["rms", "spectral"] = "rms"
    """Scale of the orthogonal update of an [in, out] matrix. rms makes its root mean square 0.2, that of AdamW,
    so that both share a learning rate and a weight decay (Liu et al. 2502.16982); spectral is
    sqrt(max(1, out / in))."""


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer: how gradients become updates.

    Rules are regular expressions that are searched for in a parameter's path. The first that matches counts,
    and "blocks[8:]/..." selects layers of a stack as a Python slice or index would.
    """

    name: Annotated[str, OPTIMIZERS] = "adamw"
    """adamw, adafactor, adagrad, lamb, lion or muon."""
    learning_rate: float = 1e-3
    """Peak of the schedule, more than 0."""
    schedule: ScheduleConfig = dataclasses.field(default_factory=ScheduleConfig)
    """The learning rate over the run."""
    beta1: float = 0.9
    """Decay of the first moment (AdamW, LAMB, Lion, and the AdamW beside Muon), at least 0 and less than 1."""
    beta2: float = 0.95
    """Decay of the second moment (AdamW, LAMB, and the AdamW beside Muon), and of Lion's momentum."""
    eps: float = 1e-8
    """Added to the root of the second moment (AdamW, LAMB, Adagrad, and the AdamW beside Muon), more than 0."""
    bias_correction: bool = True
    """Whether the moments of AdamW and LAMB, which start at 0, are divided by 1 - beta^t. BERT's, ALBERT's, XLNet's
    and ELECTRA's own code does not."""
    momentum_dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype of first moments."""
    weight_decay: float = 0.1
    """Decoupled weight decay of matrices, 0 or more: update -= learning rate * weight_decay * parameter."""
    weight_decay_multipliers: tuple[PathRule, ...] = ()
    """Rules (pattern, factor of weight_decay); by default 1 for matrices and 0 for all else."""
    lr_multipliers: tuple[PathRule, ...] = ()
    """Rules (pattern, factor of the learning rate); by default 1."""
    freeze: tuple[str, ...] = ()
    """Patterns of parameters that never change. They have no optimizer state, except where other layers of
    their stack are trained."""
    unfreeze: tuple[PathRule, ...] = ()
    """Rules (pattern, update from which on parameters change); until then their gradients count as 0."""
    adafactor: AdafactorConfig = dataclasses.field(default_factory=AdafactorConfig)
    """Values of Adafactor alone."""
    muon: MuonConfig = dataclasses.field(default_factory=MuonConfig)
    """Values of Muon alone."""

    def validate(self) -> None:
        """Raise ConfigError where a value is not usable; rules are checked once the parameters are known."""
        OPTIMIZERS.load(self.name, allow=None)
        for field in ("learning_rate", "eps"):
            if getattr(self, field) <= 0:
                raise ConfigError(f"optimizer.{field} = {getattr(self, field)} must be more than 0")
        decays = {"beta1": self.beta1, "beta2": self.beta2, "muon.beta": self.muon.beta}
        for field, value in decays.items():
            if not 0 <= value < 1:
                raise ConfigError(f"optimizer.{field} = {value} must be at least 0 and less than 1")
        if not self.bias_correction and self.name not in WITH_BIAS_CORRECTION:
            raise ConfigError(
                f"optimizer.bias_correction = False needs the optimizer {' or '.join(WITH_BIAS_CORRECTION)}; "
                f"optimizer.name = {self.name!r} has no such correction"
            )
        if self.weight_decay < 0:
            raise ConfigError(f"optimizer.weight_decay = {self.weight_decay} must be 0 or more")
        for field in ("weight_decay_multipliers", "lr_multipliers", "unfreeze"):
            for pattern, factor in getattr(self, field):
                if factor < 0:
                    raise ConfigError(f"optimizer.{field}: {pattern!r} has the factor {factor}, less than 0")
        if self.adafactor.min_dim_size_to_factor < 2:
            raise ConfigError(
                f"optimizer.adafactor.min_dim_size_to_factor = {self.adafactor.min_dim_size_to_factor} "
                "must be 2 or more"
            )
        if self.muon.ns_steps < 1:
            raise ConfigError(f"optimizer.muon.ns_steps = {self.muon.ns_steps} must be 1 or more")
        self.schedule.validate()
