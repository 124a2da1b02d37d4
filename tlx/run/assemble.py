"""A run put together: tokenizer, data, program and initial state."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from tlx import parallel
from tlx.base.errors import ConfigError
from tlx.data.batches import Batches
from tlx.data.pipeline import build_pipeline
from tlx.data.prepare import prepare_tokenizer
from tlx.data.records import RecordSplit, build_records, prepare_records_tokenizer
from tlx.objectives.shared.base import ObjectiveSpec
from tlx.run.config import RunConfig, get_objective
from tlx.run.program import Program, program
from tlx.run.spec import spec_of
from tlx.tasks.shared.base import Task, TaskSpec
from tlx.text import Tokenizer
from tlx.training.state import State
from tlx.training.step import StepFn
from tlx.training.teacher import check_tokenizer, read_frozen


class Run(NamedTuple):
    """What training needs, assembled. Nothing is on a device yet, and nothing in the run's folder."""

    config: RunConfig
    tokenizer: Tokenizer
    spec: ObjectiveSpec | TaskSpec
    module: Any
    train: Batches
    validation: Batches
    mesh: Mesh
    rules: parallel.ShardingRules
    program: Program  # which another run, of another seed, can be made with
    state: State
    init: Callable[[], State]  # the state before the first step, never whole in one place
    frozen: Callable[[], Any]  # the part of the state that no checkpoint holds
    step: StepFn
    local_row_indices: tuple[int, ...]  # of the global batch, those that this process makes
    to_devices: Callable[[Mapping[str, np.ndarray]], dict[str, jax.Array]]  # these rows onto the devices

    def use(self) -> AbstractContextManager[None]:
        """The context in which init, step and restore are called: the mesh and its rules."""
        return parallel.use(self.mesh, self.rules)


def assemble(
    config: RunConfig,
    tokenizer: Tokenizer | None = None,
    base: Callable[[Any], Any] | None = None,
    made: Program | None = None,
) -> Run:
    """Puts a checked config's parts together: tokenizer, data, model, mesh, optimizer, step.

    `tokenizer`: the one the run was started with; else it is made (and the text tokenised) as the config
    says, once per machine. `base`: gives a tree of parameters, arrays or shapes with shardings, those of the
    model that the run goes on from in place of its own. `made`: what is compiled, of a run that differs in
    its seed alone. Raises ConfigError or DataError.
    """
    if config.adapt.method != "full" and base is None:
        raise ConfigError(f"adapt.method = {config.adapt.method!r} adapts a base model; use: tlx finetune")
    tokenizer = tokenizer or build_tokenizer(config)
    check_tokenizer(config.objective, tokenizer.hash)
    spec = spec_of(config, tokenizer)
    splits = {split: open_split(config, tokenizer, split) for split in ("train", "validation")}
    made = made or program(config, spec, parallel.make_mesh(config.mesh))
    rows = {name: leaf.sharding for name, leaf in made.batch.items()}

    def frozen() -> Any:
        if config.adapt.method == "full":
            return read_frozen(config.objective, made.state.frozen)
        return base(made.state.frozen)

    def init() -> State:
        kept = frozen()
        state = made.init(kept, np.uint32(config.seed))._replace(frozen=kept)
        return state if base is None else state._replace(params=base(state.params))

    return Run(
        config=config,
        tokenizer=tokenizer,
        spec=spec,
        module=made.module,
        train=splits["train"],
        validation=splits["validation"],
        mesh=made.mesh,
        rules=made.rules,
        program=made,
        state=made.state,
        init=init,
        frozen=frozen,
        step=made.step,
        local_row_indices=tuple(
            parallel.local_rows(next(iter(rows.values())), config.train.batch_size).tolist()
        ),
        to_devices=lambda local: parallel.to_global(local, rows),
    )


def build_tokenizer(config: RunConfig) -> Tokenizer:
    """The tokenizer that the config asks for, trained on the run's own text where it has to be."""
    parts = get_objective(config)
    if isinstance(parts, Task):
        columns = (*parts.texts(config.objective), *parts.written(config.objective))
        return prepare_records_tokenizer(config.tokenizer, config.data, columns)
    return prepare_tokenizer(config.tokenizer, config.data)


def open_split(config: RunConfig, tokenizer: Tokenizer, split: RecordSplit, batch_size: int = 0) -> Batches:
    """The batches of a split of the run's data (of a task's also "test"), `batch_size` rows or the run's."""
    parts, spec = get_objective(config), spec_of(config, tokenizer)
    rest = {"batch_size": batch_size or config.train.batch_size, "seed": config.seed}
    if isinstance(parts, Task):
        return build_records(config.data, tokenizer, parts, spec, part=split, **rest)
    reads = parts.reads(spec)
    return build_pipeline(config.data, tokenizer, parts.example, spec, reads, split=split, **rest)
