"""The config of a run: its dataclass, its defaults, and the conversion from a ConfigDict."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from tlx.adapt.config import AdaptConfig
from tlx.base.config import from_dict, to_dict
from tlx.base.config_dict import nested_config_dict
from tlx.base.errors import ConfigError, shown
from tlx.base.lookup import Allowed, Table, outside_package
from tlx.base.synonyms import canonical
from tlx.checkpoint.config import CheckpointConfig
from tlx.data.config import DataConfig
from tlx.models.config import ModelConfig
from tlx.models.pooling import SentenceConfig
from tlx.nn.losses import LossConfig
from tlx.objectives import TABLE as OBJECTIVES
from tlx.objectives.shared.base import Objective
from tlx.optim.config import OptimizerConfig
from tlx.parallel.config import MeshConfig
from tlx.rollouts import TABLE as ROLLOUTS
from tlx.rollouts.base import RolloutConfig
from tlx.tasks import TABLE as SUPERVISED
from tlx.tasks.shared.student import DistillConfig
from tlx.text.config import TokenizerConfig
from tlx.text.frames import Frame
from tlx.training.config import BaseConfig, EvalConfig, LogConfig, TrainConfig
from tlx.training.teacher import with_frozen_models

# Legal values of config.objective.name of a fine-tuning: tasks with labels, and those that sample answers.
TASKS = Table("objective", {**SUPERVISED, **ROLLOUTS})

# All legal values of config.objective.name: self-supervised objectives, and tasks.
OBJECTIVES_AND_TASKS = Table("objective", {**OBJECTIVES, **TASKS})


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Everything that decides what a run does; stored in run.json as it is."""

    name: str = ""
    """Name of the run; empty takes the name of its config file."""
    seed: int = 0
    """Seed of parameters, data order and dropout, from 0 to 2**32 - 1."""
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    """Architecture of the language model."""
    objective: Any = None
    """Config dataclass of the objective or task; its `name` selects which one."""
    tokenizer: TokenizerConfig = dataclasses.field(default_factory=TokenizerConfig)
    """Tokenizer: trained on the run's text, loaded from a directory, or bytes."""
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    """Text or labelled records, sequence length, packing and mixing."""
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    """Optimizer, learning rate schedule, weight decay and frozen parameters."""
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    """Computation of the cross-entropy."""
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    """Device mesh and sharding rules."""
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    """Number of steps, batch size, gradient accumulation and clipping."""
    checkpoint: CheckpointConfig = dataclasses.field(default_factory=CheckpointConfig)
    """When checkpoints are saved and how many are kept."""
    eval: EvalConfig = dataclasses.field(default_factory=EvalConfig)
    """Evaluation on the validation split."""
    log: LogConfig = dataclasses.field(default_factory=LogConfig)
    """Intervals of metrics, and trackers."""
    base: BaseConfig = dataclasses.field(default_factory=BaseConfig)
    """Base model of a fine-tuning; filled in when the run starts."""
    embed: SentenceConfig = dataclasses.field(default_factory=SentenceConfig)
    """Conversion of a text to a vector by `embed`; filled in by an import of a sentence-transformers directory."""
    frame: Frame | None = None
    """Form of the texts that the model was trained with before this run, special ids above all; filled in when a
    fine-tuning starts and by an import. None is the objective's own, and of a task the rows of tlx."""
    adapt: AdaptConfig = dataclasses.field(default_factory=AdaptConfig)
    """Which parameters a fine-tuning trains: all, LoRA, adapter modules, ..."""
    distill: DistillConfig = dataclasses.field(default_factory=DistillConfig)
    """Teacher of a fine-tuning, a model of the same task."""


def base_config(objective: str = "clm") -> Any:
    """Return a ConfigDict of all defaults, from which get_config functions start.

    `model.kind` is the first that the objective works with. The return type is Any because the keys of a
    ConfigDict are unknown to type checkers.
    """
    parts: Objective = OBJECTIVES_AND_TASKS.load(canonical("objective.name", objective), allow=None)
    values = to_dict(RunConfig(objective=parts.config_class()))
    values["model"]["kind"] = parts.kinds[0]
    return config_dict(values)


def config_dict(values: Any) -> ConfigDict:
    """Return a ConfigDict of a dataclass or nested mappings, with tuples in place of lists."""
    return nested_config_dict(_tuples(to_dict(values)))


def finetune_config(task: str = "classification") -> Any:
    """Return a ConfigDict like base_config's for a task, with every value of `model` None: the base model's.

    AdamW with bias correction, linear warmup over a tenth of the run, small learning rate and weight decay,
    then linear decay to 0 (Devlin et al. 2019; Mosbach et al. 2021). Models far smaller than theirs need a
    larger learning rate.
    """
    config = base_config(task)
    config.model = ConfigDict(_nones(config.model.to_dict()))
    optimizer = config.optimizer
    optimizer.learning_rate = 2e-5
    optimizer.weight_decay = 0.01
    optimizer.beta2 = 0.999
    optimizer.eps = 1e-8
    optimizer.schedule.name = "linear"
    optimizer.schedule.warmup = 0.1
    optimizer.schedule.final_fraction = 0.0
    config.data.sequence_length = 128
    config.data.records.epochs = 3.0
    config.train.batch_size = 32
    config.eval.batches = 1000  # as a rule all of them: records stand in the order of their files
    return config


def parse_config(config: ConfigDict | Mapping[str, Any], allow: Allowed = ()) -> RunConfig:
    """Return the frozen config with keys and types checked, values not.

    Args:
        config: All keys of a RunConfig, or some of them.
        allow: Packages outside tlx that the config may name code of; None, for a config that the user wrote,
            allows any. See base.lookup.Table.load.

    Returns:
        The config, with what its teacher is, where it names one, read from disk.

    Raises:
        ConfigError: For an unknown key, a wrong type, an unknown objective or code that is not allowed.
    """
    source: Any = config  # a ConfigDict has no types
    values = source.to_dict() if isinstance(source, ConfigDict) else dict(source)
    for group in ("objective", "model", "distill"):
        if not isinstance(values.get(group) or {}, Mapping):
            raise ConfigError(f"config.{group} = {shown(values[group])} must be a group of keys")
    name = canonical("objective.name", (values.get("objective") or {}).get("name"))
    parts: Objective = OBJECTIVES_AND_TASKS.load(str(name), allow=allow)
    if not hasattr(parts, "config_class"):
        raise ConfigError(
            f"config.objective.name = {name!r} is a {type(parts).__name__}, not an objective or a task"
        )
    _refuse_changed_name(str(name), parts, values["objective"])
    objective = from_dict(parts.config_class, values["objective"], "config.objective", allow)
    values["objective"] = with_frozen_models(objective)
    if values.get("distill"):
        distill = from_dict(DistillConfig, values["distill"], "config.distill", allow)
        values["distill"] = with_frozen_models(distill)
    values["model"] = without_nones(values.get("model") or {})
    return from_dict(RunConfig, values, allow=allow)


def _refuse_changed_name(name: str, parts: Objective, values: Mapping[str, Any]) -> None:
    """Raise ConfigError where the keys are exactly those of another objective: the name alone was changed."""
    own = {field.name for field in dataclasses.fields(parts.config_class)}
    if values.keys() <= own:
        return
    for other in OBJECTIVES_AND_TASKS:
        fields = dataclasses.fields(OBJECTIVES_AND_TASKS.load(other, allow=None).config_class)
        if values.keys() == {field.name for field in fields}:
            start = "finetune_config" if name in TASKS else "base_config"
            raise ConfigError(
                f"config.objective.name = {name!r}: the other keys of config.objective are those of {other!r}, and a "
                f"name does not change them; start from a config of {name!r}, as tlx.run.{start}({name!r}) returns"
            )


def get_objective(config: RunConfig) -> Objective:
    """Return the objective or task of a run."""
    return OBJECTIVES_AND_TASKS.load(config.objective.name, allow=None)


def outside_packages(config: RunConfig) -> tuple[str, ...]:
    """Return the packages outside tlx that a config names code of."""
    names = [config.objective.name, config.optimizer.name, config.optimizer.schedule.name]
    names += [source.source for source in config.data.sources]
    names += [config.objective.reward] if isinstance(config.objective, RolloutConfig) else []
    packages = (outside_package(name) for name in names)
    return tuple(dict.fromkeys(package for package in packages if package is not None))


def without_nones(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested values without those that are None, which stand for the default or the base model's."""
    present = {key: value for key, value in values.items() if value is not None}
    return {
        key: without_nones(value) if isinstance(value, Mapping) else value for key, value in present.items()
    }


def _nones(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the nested keys, each value None."""
    return {key: _nones(value) if isinstance(value, Mapping) else None for key, value in values.items()}


def _tuples(values: Any) -> Any:
    """Return nested values with tuples in place of lists: a ConfigDict lets a tuple replace a tuple alone."""
    if isinstance(values, Mapping):
        return {key: _tuples(value) for key, value in values.items()}
    return tuple(_tuples(value) for value in values) if isinstance(values, list) else values
