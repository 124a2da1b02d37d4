"""What a step keeps on each device, from shapes and shardings alone: nothing is compiled."""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax

from tlx import parallel
from tlx.base.platform import compile_for, platform
from tlx.models.flops_traced import matmul_flops
from tlx.parallel import MeshConfig
from tlx.plan.target import Target
from tlx.run import RunConfig
from tlx.run.checks import check_devices
from tlx.run.program import Program, build_program
from tlx.run.spec import spec_before_tokenizer
from tlx.training.step import merge_params
from tlx.training.step_flops import summed_loss, training_flops


class Parameters(NamedTuple):
    """Numbers of parameters. active: those that a token meets; non_embedding: without tables of ids."""

    total: int
    active: int
    non_embedding: int


class StepFlops(NamedTuple):
    """FLOPs of a step's matrix products, all devices together.

    model: what a step needs, see training/step_flops.py; computed: with what is computed again.
    """

    model_flops: int
    hardware_flops: int


@contextlib.contextmanager
def traced_for(target: Target) -> Iterator[None]:
    """Within: dtypes and fused attention of the target, as far as this process can trace them."""
    with compile_for("cpu" if target.platform == "cpu" else "tpu"):
        yield


def abstract_program(config: RunConfig, target: Target, traced: bool = True) -> Program:
    """The run's step on a mesh without devices. Raises ConfigError where the config does not divide over it.

    traced: the whole model is traced, so that no activation fails to divide later; else only parameters.
    """
    if traced:
        check_devices(config, target.num_devices)
    mesh = parallel.abstract_mesh(config.mesh, target.num_devices)
    return build_program(config, spec_before_tokenizer(config), mesh)


def device_bytes(tree: Any) -> int:
    """Bytes on one device of abstract arrays with shardings."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def count_parameters(made: Program, config: RunConfig) -> Parameters:
    """Counts of the whole model, heads of the objective included."""
    sizes = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.size
        for path, leaf in jax.tree_util.tree_leaves_with_path(
            merge_params(made.state.params, made.state.frozen)
        )
    }
    total = sum(sizes.values())
    part = config.model.feedforward
    idle = 0.0
    if part.num_experts:
        experts = sum(
            size for path, size in sizes.items() if path.rpartition("/")[2] in ("in", "gate", "out")
        )
        idle = experts * (1 - part.experts_per_token / part.num_experts)
    tables = sum(size for path, size in sizes.items() if "embedding" in path or "unembedding" in path)
    return Parameters(total, total - round(idle), total - tables)


def step_flops(config: RunConfig) -> StepFlops:
    """Counted in the traced step, attention whole: the same for every kernel, mesh and number of parts."""
    train = dataclasses.replace(config.train, microbatches=1)
    config = dataclasses.replace(config, train=train, mesh=MeshConfig())
    return _work(with_execution(config, attention="xla"))


@functools.lru_cache(maxsize=64)
def _work(config: RunConfig) -> StepFlops:
    with compile_for("cpu"):
        made = build_program(config, spec_before_tokenizer(config), parallel.abstract_mesh(config.mesh, 1))
        keys = jax.random.split(jax.random.key(0), config.train.batch_size)
        loss = functools.partial(_loss, made, keys=keys)
        computed = matmul_flops(jax.grad(loss), made.state.params, made.state.frozen, made.batch)
        return StepFlops(training_flops(made.module, made.batch, config.adapt), computed)


def with_execution(config: RunConfig, **changes: Any) -> RunConfig:
    """The config with fields of model.execution replaced."""
    execution = dataclasses.replace(config.model.execution, **changes)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, execution=execution))


def residual_bytes(config: RunConfig, made: Program) -> int:
    """Bytes on one device that the forward pass keeps for the backward pass, of one microbatch."""
    params, parts = jax.tree.leaves((made.state.params, made.state.frozen)), config.train.microbatches
    mesh, split = made.mesh.shape, _split_dims(config)
    rows = config.train.batch_size // parts
    ways = mesh["data"] * mesh["fsdp"] * mesh["expert"] * mesh["context"]
    shares = {leaf.shape: math.prod(leaf.sharding.shard_shape(leaf.shape)) / leaf.size for leaf in params}
    total = 0.0
    for leaf in _residuals(dataclasses.replace(config, mesh=MeshConfig()), platform()):
        size = leaf.size * leaf.dtype.itemsize
        if leaf.shape in shares:
            dtypes = {param.dtype for param in params if param.shape == leaf.shape}
            total += 0 if leaf.dtype in dtypes else size * shares[leaf.shape]  # a cast of the parameter
        elif rows in leaf.shape:
            total += size / (ways * (mesh["tensor"] if split & set(leaf.shape) else 1))
    return round(total)


@functools.lru_cache(maxsize=64)
def _residuals(config: RunConfig, _: str) -> list[jax.ShapeDtypeStruct]:
    """What a microbatch' forward pass keeps, whole; the same on every mesh, for the platform in use."""
    made = build_program(config, spec_before_tokenizer(config), parallel.abstract_mesh(config.mesh, 1))
    rows = config.train.batch_size // config.train.microbatches
    batch = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((rows, *leaf.shape[1:]), leaf.dtype), made.batch)
    pullback = jax.eval_shape(
        lambda p, f, b: jax.vjp(lambda p: _loss(made, p, f, b), p)[1],
        made.state.params,
        made.state.frozen,
        batch,
    )
    return jax.tree.leaves(pullback)


def _split_dims(config: RunConfig) -> set[int]:
    """Sizes of dims that the tensor axis splits."""
    model = config.model
    heads = model.attention.num_heads
    return {heads, model.attention.num_kv_heads or heads, model.block("encoder").ff_dim, model.padded_vocab}


def _loss(made: Program, params: Any, frozen: Any, batch: Any, keys: jax.Array | None = None) -> jax.Array:
    return summed_loss(made.module, merge_params(params, frozen), batch, keys)
