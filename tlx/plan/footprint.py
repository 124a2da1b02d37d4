"""Memory and FLOPs of a step, from shapes and shardings alone; nothing is compiled."""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax

from tlx import parallel
from tlx.base import tree as trees
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
    """Numbers of parameters."""

    total: int
    """All of them."""
    active: int
    """Those that a token is computed with: of a mixture of experts the chosen ones."""
    non_embedding: int
    """All without tables of token ids."""


class StepFlops(NamedTuple):
    """FLOPs of a step's matrix products, all devices together."""

    model_flops: int
    """FLOPs of the model, without rematerialisation: see training/step_flops.py."""
    hardware_flops: int
    """FLOPs that are executed, rematerialisation included."""


@contextlib.contextmanager
def traced_for(target: Target) -> Iterator[None]:
    """Trace with the target's dtypes and fused attention, as far as this process can."""
    # Kernels of a GPU cannot be traced without one: those of a TPU stand for them.
    with compile_for("cpu" if target.platform == "cpu" else "tpu"):
        yield


def abstract_program(config: RunConfig, target: Target, traced: bool = True) -> Program:
    """Return the run's program on a mesh without devices.

    Args:
        config: Checked config.
        target: Hardware that is planned for.
        traced: Whether the whole model is traced, so that no activation fails to divide later; otherwise only
            parameters are checked.

    Returns:
        The program.

    Raises:
        ConfigError: Where the config does not divide over the target's devices.
    """
    if traced:
        check_devices(config, target.num_devices)
    mesh = parallel.abstract_mesh(config.mesh, target.num_devices)
    return build_program(config, spec_before_tokenizer(config), mesh)


def device_bytes(tree: Any) -> int:
    """Return the bytes on one device of abstract arrays with shardings."""
    return sum(
        trees.array_bytes(leaf.sharding.shard_shape(leaf.shape), leaf.dtype) for leaf in jax.tree.leaves(tree)
    )


def count_parameters(program: Program, config: RunConfig) -> Parameters:
    """Count the parameters of the whole model, heads of the objective included."""
    params = merge_params(program.state.params, program.state.frozen)
    sizes = {path: math.prod(leaf.shape) for path, leaf in trees.flatten(params, trees.is_quantized).items()}
    total = sum(sizes.values())
    feedforward = config.model.feedforward
    idle = 0.0
    if feedforward.num_experts:
        experts = sum(
            size for path, size in sizes.items() if path.rpartition("/")[2] in ("in", "gate", "out")
        )
        idle = experts * (1 - feedforward.experts_per_token / feedforward.num_experts)
    tables = sum(size for path, size in sizes.items() if "embedding" in path or "unembedding" in path)
    return Parameters(total, total - round(idle), total - tables)


def step_flops(config: RunConfig) -> StepFlops:
    """Count the FLOPs of a step in its trace, attention unmasked.

    The counts are the same for every attention kernel, mesh and number of microbatches.
    """
    train = dataclasses.replace(config.train, microbatches=1)
    config = dataclasses.replace(config, train=train, mesh=MeshConfig())
    return _step_flops(with_execution(config, attention="xla"))


def with_execution(config: RunConfig, **changes: Any) -> RunConfig:
    """Return the config with fields of model.execution replaced."""
    execution = dataclasses.replace(config.model.execution, **changes)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, execution=execution))


def residual_bytes(config: RunConfig, program: Program) -> int:
    """Return the bytes on one device that the forward pass of a microbatch keeps for the backward pass."""
    params = jax.tree.leaves((program.state.params, program.state.frozen))
    mesh = program.mesh.shape
    tensor_dims = _tensor_dims(config)
    rows = config.train.batch_size // config.train.microbatches
    ways = mesh["data"] * mesh["fsdp"] * mesh["expert"] * mesh["context"]
    fractions = {leaf.shape: math.prod(leaf.sharding.shard_shape(leaf.shape)) / leaf.size for leaf in params}
    total = 0.0
    # The mesh is left out of the cached trace: residuals are counted whole and divided by it here.
    for leaf in _residuals(dataclasses.replace(config, mesh=MeshConfig()), platform()):
        size = leaf.size * leaf.dtype.itemsize
        if leaf.shape in fractions:
            dtypes = {param.dtype for param in params if param.shape == leaf.shape}
            # In another dtype it is a cast of the parameter; in its own it is the parameter, counted already.
            total += 0 if leaf.dtype in dtypes else size * fractions[leaf.shape]
        elif rows in leaf.shape:
            total += size / (ways * (mesh["tensor"] if tensor_dims & set(leaf.shape) else 1))
    return round(total)


@functools.lru_cache(maxsize=64)
def _step_flops(config: RunConfig) -> StepFlops:
    with compile_for("cpu"):
        mesh = parallel.abstract_mesh(config.mesh, 1)
        program = build_program(config, spec_before_tokenizer(config), mesh)
        keys = jax.random.split(jax.random.key(0), config.train.batch_size)
        loss = functools.partial(_loss, program, keys=keys)
        state = program.state
        executed = matmul_flops(jax.grad(loss), state.params, state.frozen, program.batch)
        return StepFlops(training_flops(program.module, program.batch, config.adapt), executed)


@functools.lru_cache(maxsize=64)
def _residuals(config: RunConfig, _: str) -> list[jax.ShapeDtypeStruct]:
    """Return what a microbatch's forward pass keeps, unsharded; cached by config and platform."""
    mesh = parallel.abstract_mesh(config.mesh, 1)
    program = build_program(config, spec_before_tokenizer(config), mesh)
    rows = config.train.batch_size // config.train.microbatches
    batch = {
        name: jax.ShapeDtypeStruct((rows, *leaf.shape[1:]), leaf.dtype)
        for name, leaf in program.batch.items()
    }
    pullback = jax.eval_shape(
        lambda p, f, b: jax.vjp(lambda p: _loss(program, p, f, b), p)[1],
        program.state.params,
        program.state.frozen,
        batch,
    )
    return jax.tree.leaves(pullback)


def _tensor_dims(config: RunConfig) -> set[int]:
    """Return the sizes of dims that the tensor axis shards."""
    model = config.model
    dims = {model.padded_vocab}
    for block in (model.block("encoder"), model.block("decoder")):
        for layer in block.attentions.values():
            dims |= {layer.attention.num_heads, layer.num_kv_heads, layer.ff_dim}
        if "state_space" in block.mixers:
            dims.add(block.state_heads)
    return dims


def _loss(program: Program, params: Any, frozen: Any, batch: Any, keys: jax.Array | None = None) -> jax.Array:
    return summed_loss(program.module, merge_params(params, frozen), batch, keys)
