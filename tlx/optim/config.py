"""The optimizer's part of a run's configuration."""

import dataclasses
from typing import Literal

from tlx.base.errors import ConfigError
from tlx.base.lookup import Table

# (OptimizerConfig, {path: Leaf}) -> the parts that share the leaves out among them: see directions.Part.
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

# (ScheduleConfig, updates made so far, those of the warm-up, those of the run) -> share of the peak.
SCHEDULES = Table(
    "optimizer.schedule.name",
    {
        "constant": "tlx.optim.schedule:constant",
        "linear": "tlx.optim.schedule:linear",
        "cosine": "tlx.optim.schedule:cosine",
        "inverse_sqrt": "tlx.optim.schedule:inverse_sqrt",
        "wsd": "tlx.optim.schedule:warmup_stable_decay",
    },
)

PathRule = tuple[str, float]


@dataclasses.dataclass(frozen=True)
class ScheduleConfig:
    """How the learning rate moves over the run, as a share of OptimizerConfig.learning_rate.

    name: one of SCHEDULES. warmup: a linear rise; from 1 up a number of steps, below 1 a share
    of the run. final_fraction: what linear, cosine and wsd end on. cooldown: wsd's last stretch, as warmup is
    given.
    """

    name: str = "cosine"
    warmup: float = 0.02
    final_fraction: float = 0.1
    cooldown: float = 0.2

    def validate(self) -> None:
        """Raises ConfigError; lengths are checked where they meet the run's."""
        SCHEDULES.load(self.name)
        for field in ("warmup", "cooldown"):
            value = getattr(self, field)
            if value < 0 or value > 1 and value != int(value):
                raise ConfigError(
                    f"optimizer.schedule.{field} = {value} must be a share of the run below 1, "
                    "or a whole number of steps"
                )
        if not 0 <= self.final_fraction <= 1:
            raise ConfigError(
                f"optimizer.schedule.final_fraction = {self.final_fraction} must be 0 to 1: a "
                "fraction of the peak"
            )


@dataclasses.dataclass(frozen=True)
class AdafactorConfig:
    """decay_exponent: exponent of the second moment's memory, 1 - t^-decay_exponent. min_dim_size_to_factor:
    matrices whose smaller side is at least this wide are factored. clipping_threshold: largest root mean
    square of an update. multiply_by_parameter_scale: updates scale with the root mean square of the
    parameter."""

    decay_exponent: float = 0.8
    min_dim_size_to_factor: int = 128
    clipping_threshold: float = 1.0
    multiply_by_parameter_scale: bool = True


@dataclasses.dataclass(frozen=True)
class MuonConfig:
    """beta: momentum (Nesterov). ns_steps: of Newton and Schulz's iteration. scale: of the orthogonal
    update of an [in, out] matrix: "rms" makes its root mean square 0.2, that of AdamW's, so that both
    share a learning rate and a decay (Liu et al. 2502.16982); "spectral" is sqrt(max(1, out / in))."""

    beta: float = 0.95
    ns_steps: int = 5
    scale: Literal["rms", "spectral"] = "rms"


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """How gradients become updates.

    learning_rate: the schedule's peak. beta1, beta2, eps: of AdamW, of LAMB, of Lion (no eps), and of the
    AdamW that serves Muon's vectors, embeddings and output matrix; Adagrad has eps. momentum_dtype: of first
    moments.
    weight_decay: update -= learning rate * weight_decay * parameter, on matrices only (each layer
    judged by itself) unless a rule says otherwise.

    Rules are regular expressions found in a parameter's path; the first that matches counts, and
    "blocks[8:]/..." names layers of a stack as a Python slice or index would. weight_decay_multipliers:
    factors of weight_decay. lr_multipliers: factors of the learning rate. freeze: parameters that never
    change; they have no optimizer state, except where other layers of their stack are trained. unfreeze:
    updates after which parameters begin to change; until then their gradients count as 0.
    """

    name: str = "adamw"
    learning_rate: float = 1e-3
    schedule: ScheduleConfig = dataclasses.field(default_factory=ScheduleConfig)
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    momentum_dtype: Literal["float32", "bfloat16"] = "float32"
    weight_decay: float = 0.1
    weight_decay_multipliers: tuple[PathRule, ...] = ()
    lr_multipliers: tuple[PathRule, ...] = ()
    freeze: tuple[str, ...] = ()
    unfreeze: tuple[PathRule, ...] = ()
    adafactor: AdafactorConfig = dataclasses.field(default_factory=AdafactorConfig)
    muon: MuonConfig = dataclasses.field(default_factory=MuonConfig)

    def validate(self) -> None:
        """Raises ConfigError; rules are checked where they meet the parameters."""
        OPTIMIZERS.load(self.name)
        for field in ("learning_rate", "eps"):
            if getattr(self, field) <= 0:
                raise ConfigError(f"optimizer.{field} = {getattr(self, field)} must be more than 0")
        shares = {"beta1": self.beta1, "beta2": self.beta2, "muon.beta": self.muon.beta}
        for field, value in shares.items():
            if not 0 <= value < 1:
                raise ConfigError(f"optimizer.{field} = {value} must be at least 0 and less than 1")
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
