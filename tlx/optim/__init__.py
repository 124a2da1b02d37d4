"""Floor 1: optimizers, schedules, rules by path, and the shardings of optimizer state."""

from tlx.optim.config import (
    OPTIMIZERS,
    SCHEDULES,
    AdafactorConfig,
    MuonConfig,
    OptimizerConfig,
    ScheduleConfig,
)
from tlx.optim.leaves import Leaf
from tlx.optim.optimizers import ParamGroup
from tlx.optim.schedule import make_schedule
from tlx.optim.state import state_shardings
from tlx.optim.transform import OptimizerState, frozen_paths, make_optimizer

__all__ = [
    "OPTIMIZERS",
    "SCHEDULES",
    "AdafactorConfig",
    "Leaf",
    "MuonConfig",
    "OptimizerConfig",
    "OptimizerState",
    "ParamGroup",
    "ScheduleConfig",
    "frozen_paths",
    "make_optimizer",
    "make_schedule",
    "state_shardings",
]
