"""Checks of a config: of its values alone, and against a number of devices."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
from ml_collections import ConfigDict

from tlx import parallel
from tlx.adapt.parts import check_patterns, split
from tlx.adapt.rates import adapted_optimizer_config
from tlx.base.errors import ConfigError, one_of
from tlx.base.lookup import Allowed
from tlx.models.config import ModelConfig
from tlx.optim import make_optimizer, make_schedule
from tlx.optim.leaves import describe
from tlx.rollouts.base import RolloutTask
from tlx.run.config import RunConfig, get_objective, parse_config
from tlx.run.spec import abstract_batch, spec_before_tokenizer, training_module
from tlx.training.clipping import group_indices
from tlx.training.config import TrainConfig
from tlx.training.state import boxed_params, frozen_params, initial_params
from tlx.training.step_flops import trace_forward


def resolve(config: ConfigDict | Mapping[str, Any], allow: Allowed = ()) -> RunConfig:
    """Return the frozen config, checked in everything that does not depend on the devices.

    Raises ConfigError with the field, its value and the legal ones. `allow`: packages outside tlx that the config
    may name code of; None, for a config that the user wrote, allows any.
    """
    resolved = parse_config(config, allow)
    name = resolved.objective.name
    parts = get_objective(resolved)
    for field in dataclasses.fields(resolved):
        validate = getattr(getattr(resolved, field.name), "validate", None)
        if validate is not None:
            validate()
    _check_seed(resolved.seed)
    if resolved.model.kind not in parts.kinds:
        raise ConfigError(f"objective {name!r}: " + one_of("model.kind", resolved.model.kind, parts.kinds))
    records = resolved.data.records
    # A model that was imported with the head of a task has no records; a training asks for them.
    if parts.supervised and (records.train or records.sets):
        records.validate()
    try:
        parts.check_spec(spec_before_tokenizer(resolved))
    except MemoryError as error:
        raise ConfigError(f"a row of this config does not fit the memory of this machine: {error}") from error
    _check_positions(resolved)
    if resolved.checkpoint.keep_best and not resolved.eval.every:
        raise ConfigError(
            "checkpoint.keep_best = True keeps the step with the best evaluation, but eval.every = 0 makes none; "
            "set it to the number of steps between them"
        )
    if resolved.eval.params == "ema" and not resolved.train.ema.decay:
        raise ConfigError(
            "eval.params = 'ema' evaluates the moving average of the parameters, but train.ema.decay = 0 keeps none; "
            "set it to 0.999, say, or eval.params to 'trained'"
        )
    if resolved.train.mixout:
        _check_mixout(resolved, isinstance(parts, RolloutTask))
    return resolved


def _check_mixout(config: RunConfig, is_rollout: bool) -> None:
    """Raise ConfigError where there is no base model to mix with, or its kernels are not all trained."""
    if not config.base.path or config.adapt.method != "full" or is_rollout:
        raise ConfigError(
            f"train.mixout = {config.train.mixout} mixes with the kernels of a base model: it is for `tlx finetune "
            f"--from=BASE` with adapt.method = 'full' (it is {config.adapt.method!r}), and not for rollouts"
        )


def check_devices(config: RunConfig, num_devices: int) -> None:
    """Raise ConfigError where mesh, batch or model do not divide over so many devices. Compiles nothing.

    The whole model is traced with the mesh's shardings, so that no dim fails to divide later.
    """
    sizes = config.mesh.sizes(num_devices)
    rules = parallel.rules(config.mesh)
    axes = {rule.name: [axis for axis in rule.axes if sizes[axis] > 1] for rule in rules}
    _check_batch(config.train, axes["batch"], math.prod(sizes[axis] for axis in axes["batch"]))
    _check_heads(config.model, axes["heads"], math.prod(sizes[axis] for axis in axes["heads"]))
    mesh = parallel.abstract_mesh(config.mesh, num_devices)
    spec = spec_before_tokenizer(config)
    module = training_module(config, spec.vocab)
    batch = abstract_batch(config, spec)
    boxed = boxed_params(module, batch)
    check_patterns(config.adapt, boxed)
    trainable, _ = split(config.adapt, boxed)
    group_indices(config.train, describe(trainable))
    num_updates = config.train.steps * get_objective(config).updates_per_step(config.objective)
    optimizer = adapted_optimizer_config(config.optimizer, config.adapt, module.model, trainable, num_updates)
    make_optimizer(optimizer, make_schedule(optimizer, num_updates), trainable)
    frozen = frozen_params(module)
    parallel.param_shardings((boxed, frozen), mesh, rules)
    jax.eval_shape(partial(initial_params, module), parallel.unbox(boxed), parallel.unbox(frozen))
    # Activations are constrained while they are traced: what does not divide raises here, in seconds.
    with parallel.use(mesh, rules):
        jax.eval_shape(lambda: trace_forward(module, batch))


def fit_devices(config: RunConfig, num_devices: int) -> RunConfig:
    """Return the config with so many microbatches that a device computes train.rows_per_device rows at once at most.

    The gradient does not depend on their number, to rounding. Raises ConfigError where the mesh does not fit.
    """
    train = config.train
    if not train.rows_per_device:
        return config
    sizes = config.mesh.sizes(num_devices)
    axes = next(rule.axes for rule in parallel.rules(config.mesh) if rule.name == "batch")
    shards = math.prod(sizes[axis] for axis in axes)
    for count in range(train.microbatches, train.batch_size // shards + 1):
        rows = train.batch_size / (count * shards)
        if rows.is_integer() and rows <= train.rows_per_device:
            return dataclasses.replace(config, train=dataclasses.replace(train, microbatches=count))
    # The batch does not divide over these devices, of which check_devices tells.
    return config


def _check_seed(seed: int) -> None:
    if not 0 <= seed < 2**32:
        raise ConfigError(f"seed = {seed} must lie in 0..{2**32 - 1}")


def _check_positions(config: RunConfig) -> None:
    """Check that a learned table has a row for each position: an index beyond it would read the last one."""
    position = config.model.position
    length = config.data.sequence_length
    if position.kind == "learned" and length > position.max_length:
        raise ConfigError(
            f"data.sequence_length = {length} needs {length} rows of learned positions, "
            f"model.position.max_length = {position.max_length}; raise one or lower the other"
        )


def _check_batch(train: TrainConfig, axes: Sequence[str], shards: int) -> None:
    """Check that microbatches divide over the mesh axes that shard the batch."""
    unit = shards * train.microbatches
    if train.batch_size % unit:
        devices = f"{shards} devices of mesh.{' x mesh.'.join(axes)}" if axes else ""
        below = max(unit, train.batch_size // unit * unit)
        above = -(-train.batch_size // unit) * unit
        nearest = sorted({below, above})
        raise ConfigError(
            f"train.batch_size = {train.batch_size} does not divide into {train.microbatches} microbatches"
            f" over {devices}; it must be a multiple of {unit}, such as {' or '.join(map(str, nearest))}"
        )


def _check_heads(model: ModelConfig, axes: Sequence[str], shards: int) -> None:
    """Check that query and key-value heads divide over the mesh axes that shard them."""
    counts = {
        "attention.num_heads": model.attention.num_heads,
        "attention.num_kv_heads": model.attention.num_kv_heads,
        "num_decoder_heads": model.num_decoder_heads,
    }
    for name, count in counts.items():
        if count and count % shards:
            legal = [n for n in range(1, count + 1) if count % n == 0]
            raise ConfigError(
                f"model.{name} = {count} does not divide over mesh.{' x mesh.'.join(axes)} = "
                f"{shards}; with so many heads the mesh's may be {', '.join(map(str, legal))}"
            )
