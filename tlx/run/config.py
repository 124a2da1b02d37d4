"""The config of a run: its dataclass, its defaults, and the way from a ConfigDict to it."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from tlx.adapt.config import AdaptConfig
from tlx.base.config import from_dict, to_dict
from tlx.base.lookup import Table
from tlx.checkpoint.config import CheckpointConfig
from tlx.data.config import DataConfig
from tlx.models.config import ModelConfig
from tlx.nn.losses import LossConfig
from tlx.objectives import TABLE as OBJECTIVES
from tlx.objectives.shared.base import Objective
from tlx.optim.config import OptimizerConfig
from tlx.parallel.config import MeshConfig
from tlx.tasks import TABLE as TASKS
from tlx.tasks.shared.base import Task
from tlx.text.config import TokenizerConfig
from tlx.training.config import BaseConfig, EvalConfig, LogConfig, TrainConfig
from tlx.training.teacher import with_teacher

# What a run's config.objective may be: self-supervised, or a task with labels.
OBJECTIVES_AND_TASKS = Table("objective", {**OBJECTIVES, **TASKS})


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Everything that decides what a run does; saved in its directory as it is."""

    name: str = ""  # what the run is called; empty: as its config file
    seed: int = 0  # of parameters, data order and dropout
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    objective: Any = None  # the dataclass of the objective, or of the task, called objective.name
    tokenizer: TokenizerConfig = dataclasses.field(default_factory=TokenizerConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    checkpoint: CheckpointConfig = dataclasses.field(default_factory=CheckpointConfig)
    eval: EvalConfig = dataclasses.field(default_factory=EvalConfig)
    log: LogConfig = dataclasses.field(default_factory=LogConfig)
    base: BaseConfig = dataclasses.field(default_factory=BaseConfig)
    adapt: AdaptConfig = dataclasses.field(default_factory=AdaptConfig)


def base_config(objective: str = "clm") -> ConfigDict:
    """A complete ConfigDict of all defaults, which get_config functions start from.

    model.kind is the first that the objective works with.
    """
    parts: Objective | Task = OBJECTIVES_AND_TASKS.load(objective)
    values = to_dict(RunConfig(objective=parts.config_class()))
    values["model"]["kind"] = parts.kinds[0]
    return config_dict(values)


def config_dict(values: Any) -> ConfigDict:
    """A ConfigDict of a dataclass or of nested mappings, with tuples where they have tuples or lists."""
    return ConfigDict(_tuples(to_dict(values)))


def finetune_config(task: str = "classification") -> ConfigDict:
    """As base_config, for a task: every value of `model` is None, which is as the base model has it.

    AdamW with bias correction, a tenth of the run warming up, small rates and decay, then straight to 0
    (Devlin et al. 2019; Mosbach et al. 2021). Models far smaller than theirs want larger rates.
    """
    config = base_config(task)
    config.model = ConfigDict(_nones(config.model.to_dict()))
    optimizer, schedule = config.optimizer, config.optimizer.schedule
    optimizer.learning_rate, optimizer.weight_decay = 2e-5, 0.01
    optimizer.beta2, optimizer.eps = 0.999, 1e-8
    schedule.name, schedule.warmup, schedule.final_fraction = "linear", 0.1, 0.0
    config.data.sequence_length = 128
    config.data.records.epochs = 3.0
    config.train.batch_size = 32
    config.eval.batches = 1000  # all, as a rule: the records stand in the order of their files
    return config


def parse_config(config: ConfigDict | Mapping[str, Any], allow: tuple[str, ...] | None = None) -> RunConfig:
    """The frozen config: its keys and types are right, its values are not checked."""
    values = config.to_dict() if isinstance(config, ConfigDict) else dict(config)
    name = (values.get("objective") or {}).get("name")
    parts: Objective | Task = OBJECTIVES_AND_TASKS.load(str(name), allow=allow)
    values["objective"] = with_teacher(from_dict(parts.config_class, values["objective"], "config.objective"))
    values["model"] = without_nones(values.get("model") or {})
    return from_dict(RunConfig, values)


def get_objective(config: RunConfig, allow: tuple[str, ...] | None = None) -> Objective | Task:
    """The objective or the task that a run is about."""
    return OBJECTIVES_AND_TASKS.load(config.objective.name, allow=allow)


def without_nones(values: Mapping[str, Any]) -> dict[str, Any]:
    """What a config's group says: None is as the default, or as the base model."""
    kept = {key: value for key, value in values.items() if value is not None}
    return {key: without_nones(value) if isinstance(value, Mapping) else value for key, value in kept.items()}


def _nones(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _nones(value) if isinstance(value, Mapping) else None for key, value in values.items()}


def _tuples(values: Any) -> Any:
    """Lists as tuples: what a ConfigDict lets a config file replace by another tuple."""
    if isinstance(values, Mapping):
        return {key: _tuples(value) for key, value in values.items()}
    return tuple(_tuples(value) for value in values) if isinstance(values, list) else values
