"""A run put together: tokenizer, data, program and initial state."""

import functools
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from tlx import parallel
from tlx.base.errors import ConfigError
from tlx.data.batches import Batches
from tlx.data.pipeline import Pipeline, build_pipeline
from tlx.data.prepare import check_text_size, prepare_tokenizer
from tlx.data.records import RecordPipeline, RecordSplit, build_records, prepare_records_tokenizer
from tlx.data.records_with_text import RecordsWithText
from tlx.data.sources import Split
from tlx.objectives import TABLE as OBJECTIVES
from tlx.rollouts.ppo import PPO, TEXT
from tlx.rollouts.step import RolloutStep
from tlx.run.config import RunConfig, get_objective
from tlx.run.program import Program, build_program, initial_extra
from tlx.run.spec import spec_of
from tlx.tasks.shared.base import is_supervised
from tlx.text import Tokenizer
from tlx.training.ema import with_initial_extra
from tlx.training.state import State
from tlx.training.step import StepFn
from tlx.training.teacher import check_tokenizer, read_frozen


class Run(NamedTuple):
    """Everything that training needs. No array is on a device yet, and the run directory is untouched."""

    config: RunConfig
    """Checked config."""
    tokenizer: Tokenizer
    """Tokenizer of the run, trained where the config asks for it."""
    spec: Any
    """Spec or TaskSpec that examples are made with."""
    module: Any
    """Linen module of the objective."""
    train: Batches
    """Batches of the training split."""
    validation: Batches
    """Batches of the validation split."""
    mesh: Mesh
    """Device mesh."""
    rules: parallel.ShardingRules
    """Sharding rules from logical dim names to mesh axes."""
    program: Program
    """Jitted init and step; a run that differs only in its seed can reuse it."""
    state: State
    """Abstract train state, each leaf with its sharding."""
    init: Callable[[], State]
    """Returns the initial train state, created already sharded."""
    frozen: Callable[[], Any]
    """Returns the frozen parameters, which no checkpoint holds."""
    step: StepFn
    """Train step, jitted, or of jitted parts around the rewards of sampled answers; donates the state."""
    local_row_indices: tuple[int, ...]
    """Indices of the global batch rows that this process loads, ascending."""
    to_devices: Callable[[Mapping[str, np.ndarray]], dict[str, jax.Array]]
    """Puts these rows onto the devices as global arrays."""

    def use(self) -> AbstractContextManager[None]:
        """Return the context, mesh and rules, in which init, step and restore are called."""
        return parallel.use(self.mesh, self.rules)


def assemble(
    config: RunConfig,
    tokenizer: Tokenizer | None = None,
    base: Callable[[Any], Any] | None = None,
    program: Program | None = None,
) -> Run:
    """Assemble a run from a checked config: tokenizer, data, model, mesh, optimizer, step.

    Args:
        config: Checked config.
        tokenizer: Tokenizer that the run was started with. None makes it (and tokenises the text) as the
            config says, once per host.
        base: Maps a tree of initial or abstract parameters with shardings to those of the base model. None
            starts from fresh parameters.
        program: A compiled program to reuse, from a run that differs only in its seed.

    Returns:
        The run. Nothing of it is computed before `init` and `step` are called.

    Raises:
        ConfigError: For adaptation without a base model, or what does not divide over the devices.
        DataError: For text or records that are missing, unreadable or too few.
    """
    if config.adapt.method != "full" and base is None:
        raise ConfigError(
            f"adapt.method = {config.adapt.method!r} adapts a base model; give one by --from=DIR (base= in Python)"
        )
    tokenizer = tokenizer or build_tokenizer(config)
    check_tokenizer(config.objective, tokenizer.hash)
    check_tokenizer(config.distill, tokenizer.hash)
    spec = spec_of(config, tokenizer)
    if not is_supervised(get_objective(config)):
        check_text_size(config.data, tokenizer, jax.process_count())
    train = open_split(config, tokenizer, "train")
    validation = open_split(config, tokenizer, "validation")
    if program is None:
        program = build_program(config, spec, parallel.make_mesh(config.mesh))
    mesh = program.mesh
    if not isinstance(mesh, Mesh):
        raise ValueError("a program on an abstract mesh has no devices to run on")
    initialise = program.init
    abstract = program.state
    shardings = {name: leaf.sharding for name, leaf in program.batch.items()}
    rows = parallel.local_rows(next(iter(shardings.values())), config.train.batch_size)

    def frozen() -> Any:
        # A teacher is the distillation's, or that of an objective with one; never both.
        named = config.distill if config.distill.teacher else config.objective
        models = read_frozen(named, abstract.frozen)
        of_base = {name: leaf for name, leaf in abstract.frozen.items() if name not in models}
        # There is an adapted base only where a run has a base.
        return models | (base(of_base) if base is not None and of_base else of_base)

    def init() -> State:
        # Read first: the initial values of a student are taken from its teacher's.
        frozen_params = frozen()
        state = initialise(frozen_params, np.uint32(config.seed))._replace(frozen=frozen_params)
        if base is None:
            return state
        initial = functools.partial(initial_extra, config)
        return with_initial_extra(initial, state._replace(params=base(state.params)), abstract)

    return Run(
        config=config,
        tokenizer=tokenizer,
        spec=spec,
        module=program.module,
        train=train,
        validation=validation,
        mesh=mesh,
        rules=program.rules,
        program=program,
        state=program.state,
        init=init,
        frozen=frozen,
        step=_step(program, spec, train, rows),
        local_row_indices=tuple(rows.tolist()),
        # Rows of an evaluation may lack what only training reads.
        to_devices=lambda local: parallel.to_global(local, {name: shardings[name] for name in local}),
    )


def _step(program: Program, spec: Any, train: Batches, rows: np.ndarray) -> StepFn:
    """Return the train step of a program; of a task that samples its answers, with their rewards.

    Args:
        program: The program, on a mesh of devices.
        spec: Spec of the run.
        train: Its training split.
        rows: Indices of the global batch rows that this process loads.

    Returns:
        The step.
    """
    if program.sample is None:
        return program.step
    records: Any = train
    sharding = program.batch["reward"].sharding

    def place(rewards: np.ndarray) -> jax.Array:
        return parallel.to_global(rewards[rows], sharding)

    return RolloutStep(program.sample, program.step, spec, records.records, place)


def build_tokenizer(config: RunConfig) -> Tokenizer:
    """Return the tokenizer that the config asks for, trained on the run's own text where it has to be."""
    objective = get_objective(config)
    if is_supervised(objective):
        columns = (*objective.text_columns(config.objective), *objective.target_columns(config.objective))
        return prepare_records_tokenizer(config.tokenizer, config.data, columns)
    return prepare_tokenizer(config.tokenizer, config.data)


def open_split(config: RunConfig, tokenizer: Tokenizer, split: RecordSplit, batch_size: int = 0) -> Batches:
    """Open the batches of a split of the run's data: text of an objective, or records of a task.

    Args:
        config: Checked config.
        tokenizer: Tokenizer of the run.
        split: "train" or "validation"; of a task also "test".
        batch_size: Rows of a batch; 0 takes train.batch_size.

    Returns:
        Batches by number.

    Raises:
        ConfigError: For an objective without such a split, or what it cannot read.
        DataError: For text or records that are missing, unreadable or too few.
    """
    objective = get_objective(config)
    if not is_supervised(objective):
        if split == "test":
            raise ConfigError(f"objective {config.objective.name!r} has no split 'test'")
        return open_pipeline(config, tokenizer, split, batch_size)
    records = build_records(
        config.data,
        tokenizer,
        objective,
        spec_of(config, tokenizer),
        part=split,
        batch_size=batch_size or config.train.batch_size,
        seed=config.seed,
    )
    if split == "train" and isinstance(config.objective, PPO) and config.objective.text_rows:
        return _with_text(config, tokenizer, records)
    return records


def _with_text(config: RunConfig, tokenizer: Tokenizer, records: RecordPipeline) -> RecordsWithText:
    """Return training records with rows of the text of data.source, as a language model reads it."""
    rows = config.objective.text_rows
    lm = OBJECTIVES.load("clm")
    spec = lm.make_spec(
        lm.config_class(), config.model, config.data.sequence_length, config.data.languages, tokenizer
    )
    text = build_pipeline(
        config.data,
        tokenizer,
        lm.example,
        spec,
        lm.window_spec(spec),
        batch_size=records.batch_size * rows,
        seed=config.seed,
    )
    return RecordsWithText(records, text, rows, TEXT)


def open_pipeline(config: RunConfig, tokenizer: Tokenizer, split: Split, batch_size: int = 0) -> Pipeline:
    """Open the batches of an objective's text, as `open_split` does.

    Args:
        config: Checked config of an objective, not of a task.
        tokenizer: Tokenizer that the text is read with.
        split: "train" or "validation".
        batch_size: Rows of a batch; 0 takes train.batch_size.

    Returns:
        The pipeline.

    Raises:
        ConfigError: For what the objective cannot read.
        DataError: For text that is missing, unreadable or too little for one batch.
    """
    objective = get_objective(config)
    if objective.supervised:
        raise ConfigError(f"objective {config.objective.name!r} is a task: it reads records, not text")
    spec = spec_of(config, tokenizer)
    return build_pipeline(
        config.data,
        tokenizer,
        objective.example,
        spec,
        objective.window_spec(spec),
        batch_size=batch_size or config.train.batch_size,
        seed=config.seed,
        split=split,
    )
