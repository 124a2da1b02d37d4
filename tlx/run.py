"""A run: ConfigDict -> frozen RunConfig -> everything that training needs, put together."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from tlx import parallel
from tlx.adapt.config import AdaptConfig
from tlx.adapt.parts import check_patterns, split
from tlx.adapt.rates import optimizer_of
from tlx.base.config import from_dict, to_dict
from tlx.base.errors import ConfigError, one_of
from tlx.base.lookup import Table
from tlx.checkpoint.config import CheckpointConfig
from tlx.data.batches import Batches
from tlx.data.config import DataConfig
from tlx.data.pipeline import build_pipeline
from tlx.data.prepare import prepare_tokenizer
from tlx.data.records import Part, build_records, prepare_records_tokenizer
from tlx.models import parametrization
from tlx.models.config import ModelConfig
from tlx.nn.losses import LossConfig
from tlx.objectives import TABLE as OBJECTIVES
from tlx.objectives.protocol import Objective, Spec
from tlx.optim import frozen_paths, make_optimizer, make_schedule
from tlx.optim import state_shardings as opt_state_shardings
from tlx.optim.config import OptimizerConfig
from tlx.parallel.config import MeshConfig
from tlx.tasks import TABLE as TASKS
from tlx.tasks.protocol import Task, TaskSpec
from tlx.text import Tokenizer, make_tokenizer
from tlx.text.config import TokenizerConfig
from tlx.text.vocabulary import Vocabulary
from tlx.text.window import made_up_window
from tlx.train import carry as carries
from tlx.train.config import BaseConfig, EvalConfig, LogConfig, TrainConfig
from tlx.train.state import State, begin, boxed_params, frozen_params, init_state
from tlx.train.step import StepFn, make_step
from tlx.train.teacher import check_tokenizer, read_frozen, with_teacher
from tlx.train.work import trace_forward

# What a run's config.objective may be: self-supervised, or a task with labels.
PARTS = Table("objective", {**OBJECTIVES, **TASKS})


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
    parts: Objective | Task = PARTS.load(objective)
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
    schedule.name, schedule.warmup, schedule.final = "linear", 0.1, 0.0
    config.data.sequence_length = 128
    config.data.records.epochs = 3.0
    config.train.batch_size = 32
    config.eval.batches = 1000  # all, as a rule: the records stand in the order of their files
    return config


def resolve(config: ConfigDict | Mapping[str, Any], allow: tuple[str, ...] | None = None) -> RunConfig:
    """The frozen config, checked in all that does not depend on the devices.

    Raises ConfigError with the field, its value and the legal ones. `allow`: see base.lookup.Table.load.
    """
    resolved = parsed(config, allow)
    name, parts = resolved.objective.name, parts_of(resolved, allow)
    for field in dataclasses.fields(resolved):
        validate = getattr(getattr(resolved, field.name), "validate", None)
        if validate is not None:
            validate()
    _check_seed(resolved.seed)
    if resolved.model.kind not in parts.kinds:
        raise ConfigError(f"objective {name!r}: " + one_of("model.kind", resolved.model.kind, parts.kinds))
    if isinstance(parts, Task):
        resolved.data.records.validate()
        abstract_batch(resolved, spec_before_tokenizer(resolved))
    else:
        parts.reads(spec_before_tokenizer(resolved))
    _check_positions(resolved)
    return resolved


def parsed(config: ConfigDict | Mapping[str, Any], allow: tuple[str, ...] | None = None) -> RunConfig:
    """The frozen config: its keys and types are right, its values are not checked."""
    values = config.to_dict() if isinstance(config, ConfigDict) else dict(config)
    name = (values.get("objective") or {}).get("name")
    parts: Objective | Task = PARTS.load(str(name), allow=allow)
    values["objective"] = with_teacher(from_dict(parts.config_class, values["objective"], "config.objective"))
    values["model"] = without_nones(values.get("model") or {})
    return from_dict(RunConfig, values)


def parts_of(config: RunConfig, allow: tuple[str, ...] | None = None) -> Objective | Task:
    """The objective or the task that a run is about."""
    return PARTS.load(config.objective.name, allow=allow)


def check_devices(config: RunConfig, num_devices: int) -> None:
    """Raises ConfigError where mesh, batch or model do not fit so many devices. Compiles nothing.

    The whole model is traced with the mesh's shardings, so that no dim fails to divide later.
    """
    sizes = config.mesh.sizes(num_devices)
    rules = parallel.rules(config.mesh)
    axes = {rule.name: [axis for axis in rule.axes if sizes[axis] > 1] for rule in rules}
    _check_batch(config.train, axes["batch"], math.prod(sizes[axis] for axis in axes["batch"]))
    _check_heads(config.model, axes["heads"], math.prod(sizes[axis] for axis in axes["heads"]))
    mesh = parallel.abstract_mesh(config.mesh, num_devices)
    spec = spec_before_tokenizer(config)
    module, batch = make_module(config, spec.vocab), abstract_batch(config, spec)
    boxed = boxed_params(module, batch)
    check_patterns(config.adapt, boxed)
    trained, _ = split(config.adapt, boxed)
    optimizer = optimizer_of(config.optimizer, config.adapt, module.model, trained, config.train.steps)
    make_optimizer(optimizer, make_schedule(optimizer, config.train.steps), trained)
    frozen = frozen_params(module)
    parallel.param_shardings((boxed, frozen), mesh, rules)
    jax.eval_shape(partial(begin, module), parallel.unbox(boxed), parallel.unbox(frozen))
    with parallel.use(mesh, rules):
        jax.eval_shape(lambda: trace_forward(module, batch))


class Program(NamedTuple):
    """What runs on the devices: the step, and what goes in and comes out, without an array anywhere."""

    module: Any  # apply({"params": p}, batch, carry, keys) -> (terms, carry)
    mesh: Mesh
    rules: parallel.Rules
    boxed: Any  # abstract parameters with their logical names
    state: State  # abstract, with the sharding of each leaf
    batch: dict[str, jax.ShapeDtypeStruct]  # abstract, with the sharding of each array
    init: Callable[[Any, Any], State]  # of frozen parameters and seed: the first state, without the former
    step: StepFn  # jitted; it takes the memory of the state it is given

    def use(self) -> AbstractContextManager[None]:
        """The context in which init and step are called, traced or lowered: the mesh and its rules."""
        return parallel.use(self.mesh, self.rules)


def program(config: RunConfig, spec: Spec | TaskSpec, mesh: Mesh) -> Program:
    """The very step of a run on a mesh, whose devices may be of a machine that is not here.

    It does not depend on config.seed.
    """
    rules = parallel.rules(config.mesh)
    module, batch = make_module(config, spec.vocab), abstract_batch(config, spec)
    boxed = boxed_params(module, batch)
    apart = partial(split, config.adapt)
    trained, kept = apart(boxed)
    chosen = optimizer_of(config.optimizer, config.adapt, module.model, trained, config.train.steps)
    schedule = make_schedule(chosen, config.train.steps)
    rates = parametrization.rates(module.model, chosen, trained)
    optimizer = make_optimizer(chosen, schedule, trained, rates)

    def init(frozen: Any, seed: Any) -> State:
        return init_state(module, optimizer, batch, config.train.batch_size, seed, frozen, apart)

    frozen = frozen_params(module) | kept
    state = jax.eval_shape(init, parallel.unbox(frozen), np.uint32(0))
    shardings = state_shardings(state, trained, frozen, module, mesh, rules)
    rows = parallel.batch_sharding(mesh, rules, batch)
    whole = NamedSharding(mesh, PartitionSpec())
    step = make_step(module, optimizer, schedule, config.train, frozen_paths(chosen, trained))
    return Program(
        module=module,
        mesh=mesh,
        rules=rules,
        boxed=boxed,
        state=jax.tree.map(_with_sharding, state._replace(frozen=parallel.unbox(frozen)), shardings),
        batch=jax.tree.map(_with_sharding, batch, rows),
        init=jax.jit(
            init, in_shardings=(shardings.frozen, whole), out_shardings=shardings._replace(frozen={})
        ),
        step=jax.jit(
            step, in_shardings=(shardings, rows), out_shardings=(shardings, whole), donate_argnums=0
        ),
    )


class Run(NamedTuple):
    """What training needs, assembled. Nothing is on a device yet, and nothing in the run's folder."""

    config: RunConfig
    tokenizer: Tokenizer
    spec: Spec | TaskSpec
    module: Any
    train: Batches
    validation: Batches
    mesh: Mesh
    rules: parallel.Rules
    program: Program  # which another run, of another seed, can be made with
    state: State
    init: Callable[[], State]  # the state before the first step, never whole in one place
    frozen: Callable[[], Any]  # the part of the state that no checkpoint holds
    step: StepFn
    rows: tuple[int, ...]  # of the global batch, those that this process makes
    place: Callable[[Mapping[str, np.ndarray]], dict[str, jax.Array]]  # these rows onto the devices

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
    tokenizer = tokenizer or made_tokenizer(config)
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
        rows=tuple(parallel.local_rows(next(iter(rows.values())), config.train.batch_size).tolist()),
        place=lambda local: parallel.to_global(local, rows),
    )


def made_tokenizer(config: RunConfig) -> Tokenizer:
    """The tokenizer that the config asks for, trained on the run's own text where it has to be."""
    parts = parts_of(config)
    if isinstance(parts, Task):
        columns = (*parts.texts(config.objective), *parts.written(config.objective))
        return prepare_records_tokenizer(config.tokenizer, config.data, columns)
    return prepare_tokenizer(config.tokenizer, config.data)


def make_module(config: RunConfig, vocab: Vocabulary) -> Any:
    """The objective's module, its model as large as the vocabulary."""
    size = config.model.vocab_size or vocab.size
    if size < vocab.size - vocab.added:
        raise ConfigError(
            f"model.vocab_size = {size} is smaller than the tokenizer's {vocab.size}; 0 takes the tokenizer's"
        )
    model = dataclasses.replace(config.model, vocab_size=size)
    if model.padded_vocab < vocab.size:
        raise ConfigError(
            f"model.vocab_multiple = {model.vocab_multiple} gives {model.padded_vocab} rows, too few for the "
            f"{vocab.added} ids that were added to the tokenizer's {vocab.size - vocab.added}"
        )
    model.validate()
    return parts_of(config).module(config.objective, model, config.loss)


def spec_of(config: RunConfig, tokenizer: Tokenizer) -> Spec | TaskSpec:
    """What the run's examples depend on, with this tokenizer."""
    length = config.data.sequence_length
    if isinstance(parts_of(config), Task):
        return _task_spec(config, tokenizer.vocab, tokenizer)
    return Spec.of(config.objective, length, tokenizer, config.data.languages)


def _task_spec(config: RunConfig, vocab: Vocabulary, tokenizer: Tokenizer | None = None) -> TaskSpec:
    first = dataclasses.replace(config.model, vocab_size=config.model.vocab_size or vocab.size).padded_vocab
    prompt = tuple(range(first, first + config.model.slots.prompt))
    length, kind = config.data.sequence_length, config.model.kind
    return TaskSpec(config.objective, length, vocab, kind, prompt, tokenizer)


def open_split(config: RunConfig, tokenizer: Tokenizer, split: Part, batch_size: int = 0) -> Batches:
    """The batches of a split of the run's data (of a task's also "test"), `batch_size` rows or the run's."""
    parts, spec = parts_of(config), spec_of(config, tokenizer)
    rest = {"batch_size": batch_size or config.train.batch_size, "seed": config.seed}
    if isinstance(parts, Task):
        return build_records(config.data, tokenizer, parts, spec, part=split, **rest)
    reads = parts.reads(spec)
    return build_pipeline(config.data, tokenizer, parts.example, spec, reads, split=split, **rest)


def abstract_batch(config: RunConfig, spec: Spec | TaskSpec) -> dict[str, jax.ShapeDtypeStruct]:
    """Names, shapes and dtypes of a global batch, from one example of made-up text, or of none."""
    parts = parts_of(config)
    task = isinstance(parts, Task)
    source = parts.blank(spec) if task else made_up_window(parts.reads(spec), spec.vocab)
    example = parts.example(np.random.default_rng(0), source, spec)
    rows = config.train.batch_size
    return {name: jax.ShapeDtypeStruct((rows, *leaf.shape), leaf.dtype) for name, leaf in example.items()}


def state_shardings(
    state: State, boxed: Any, frozen: Any, module: Any, mesh: Mesh, rules: parallel.Rules
) -> State:
    """NamedSharding of each leaf of the abstract state: as its parameter, its row of the batch, or whole."""
    params = parallel.param_shardings(boxed, mesh, rules)
    whole = NamedSharding(mesh, PartitionSpec())

    def carried(leaf: jax.ShapeDtypeStruct, batch_dim: int) -> NamedSharding:
        names = ["batch" if dim == batch_dim else None for dim in range(leaf.ndim)]
        return NamedSharding(mesh, parallel.spec(names, leaf.shape, mesh, rules, "carry"))

    return State(
        params=params,
        frozen=parallel.param_shardings(frozen, mesh, rules),
        opt_state=opt_state_shardings(state.opt_state, state.params, params, mesh),
        carry=jax.tree.map(carried, state.carry, carries.batch_dims(module)),
        seed=whole,
        step=whole,
        skipped=whole,
        skipped_in_a_row=whole,
    )


def _with_sharding(leaf: jax.ShapeDtypeStruct, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def spec_before_tokenizer(config: RunConfig) -> Spec | TaskSpec:
    """The spec as far as it is known before a vocabulary is trained: all that shapes depend on."""
    if config.tokenizer.path is None and config.tokenizer.kind == "sentencepiece":
        vocab = Vocabulary(config.tokenizer.vocab_size)
    else:
        vocab = make_tokenizer(config.tokenizer, ()).vocab
    if isinstance(parts_of(config), Task):
        return _task_spec(config, vocab)
    tables = np.ones(vocab.size, bool), np.ones(vocab.size, bool)
    return Spec(config.objective, config.data.sequence_length, vocab, *tables, config.data.languages)


def _check_seed(seed: int) -> None:
    if not 0 <= seed < 2**32:
        raise ConfigError(f"seed = {seed} must lie in 0..{2**32 - 1}")


def _check_positions(config: RunConfig) -> None:
    """A learned table must have a row for each place: an index beyond it would silently read the last."""
    position, length = config.model.position, config.data.sequence_length
    if position.kind == "learned" and length > position.max_length:
        raise ConfigError(
            f"data.sequence_length = {length} needs {length} rows of learned positions, "
            f"model.position.max_length = {position.max_length}; raise one or lower the other"
        )


def _check_batch(train: TrainConfig, axes: Sequence[str], shards: int) -> None:
    parts = shards * train.microbatches
    if train.batch_size % parts:
        split = " x ".join([f"{shards} devices of mesh.{' x mesh.'.join(axes)}"] if axes else [])
        near = sorted({max(parts, train.batch_size // parts * parts), -(-train.batch_size // parts) * parts})
        raise ConfigError(
            f"train.batch_size = {train.batch_size} does not divide into {train.microbatches} microbatches"
            f" over {split}; it must be a multiple of {parts}, such as {' or '.join(map(str, near))}"
        )


def _check_heads(model: ModelConfig, axes: Sequence[str], shards: int) -> None:
    heads, kv_heads = model.attention.num_heads, model.attention.num_kv_heads
    for name, count in (("num_heads", heads), ("num_kv_heads", kv_heads)):
        if count and count % shards:
            legal = [n for n in range(1, count + 1) if count % n == 0]
            raise ConfigError(
                f"model.attention.{name} = {count} does not divide over mesh.{' x mesh.'.join(axes)} = "
                f"{shards}; with so many heads the mesh's may be {', '.join(map(str, legal))}"
            )


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
