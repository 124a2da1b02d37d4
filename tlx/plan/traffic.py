"""The least traffic of a layout in a step, by kind of collective and mesh axis.

Bytes that one device sends over the best ring of n devices: an all-gather (n-1)/n of its result, a
reduce-scatter (n-1)/n of its operand, an all-reduce twice that. Parameters are sent in the dtype of the
computation. Small arrays (norms, sums of the loss) are not counted.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from tlx.plan.footprint import Program, RunConfig

Traffic = dict[str, dict[str, float]]  # {kind: {axis: bytes}}
Add = Callable[[str, str, float], None]  # of a kind, along an axis, so many bytes


def least_traffic(config: RunConfig, program: Program) -> Traffic:
    """Return the bytes that a device sends in a step, however well it is compiled."""
    sizes = dict(program.mesh.shape)
    traffic: Traffic = {}
    add = _adder(traffic)
    itemsize = jnp.dtype(config.model.block("encoder").dtype).itemsize
    kernels, shards = _param_bytes(program.state.params, sizes["fsdp"], itemsize)
    frozen, _ = _param_bytes(program.state.frozen, sizes["fsdp"], itemsize)
    microbatches = config.train.microbatches
    fsdp = sizes["fsdp"]
    if fsdp > 1:
        # Once for the forward pass and once for the backward pass, of every microbatch.
        add("all-gather", "fsdp", 2 * microbatches * (kernels + frozen) * _ring_fraction(fsdp))
        add("reduce-scatter", "fsdp", microbatches * kernels * _ring_fraction(fsdp))
    for axis in ("data", "context"):
        if sizes[axis] > 1:
            add("all-reduce", axis, 2 * shards * _ring_fraction(sizes[axis]))
    _add_activations(config, program, itemsize, add)
    return traffic


def total(traffic: Traffic) -> float:
    """Return the bytes that a device sends in a step."""
    return sum(size for axes in traffic.values() for size in axes.values())


def _param_bytes(params: Any, fsdp: int, itemsize: int) -> tuple[float, float]:
    """Return bytes of the kernels that fsdp shards, gathered over it, and of a device's shards of all."""
    kernels = 0.0
    shards = 0.0
    for leaf in jax.tree.leaves(params):
        shard = math.prod(leaf.sharding.shard_shape(leaf.shape)) * itemsize
        kernels += shard * (fsdp if "fsdp" in _axes_of(leaf) and leaf.ndim > 1 else 0)
        shards += shard
    return kernels, shards


def _add_activations(config: RunConfig, program: Program, itemsize: int, add: Add) -> None:
    """Add the traffic of activations along the axes tensor, context and expert."""
    model = config.model
    sizes = program.mesh.shape
    rows = config.train.batch_size
    ways = sizes["data"] * sizes["fsdp"] * sizes["expert"] * sizes["context"]
    lengths = {name: leaf.shape[1] for name, leaf in program.batch.items() if name.endswith("tokens")}
    for name, length in lengths.items():
        stack = "decoder" if name.startswith("decoder") or model.kind == "decoder" else "encoder"
        block = model.block(stack)
        size = rows * length * model.width * itemsize / ways
        if sizes["tensor"] > 1:
            # Two products a layer (three with cross-attention) end in a sum over the axis, and as many
            # of their gradients; so do the table's rows, and the gradient of the logits' input.
            parts = 1 + block.cross + (not block.feedforward.absent)
            sums = 2 * parts * block.num_layers + (2 if stack == "decoder" else 1)
            sums += 1 if model.kind != "encoder_decoder" and stack == "encoder" else 0
            add("all-reduce", "tensor", 2 * sums * size * _ring_fraction(sizes["tensor"]))
        if sizes["context"] > 1:
            keys = rows * length * block.cached_dims * itemsize * sizes["context"] / ways
            keys /= sizes["tensor"]
            fraction = _ring_fraction(sizes["context"])
            # Keys and values of the whole row, forward and backward, and their gradients.
            add("all-gather", "context", 4 * keys * fraction)
            add("reduce-scatter", "context", 2 * keys * fraction)
        if sizes["expert"] > 1 and block.feedforward.num_experts:
            chosen = block.feedforward.experts_per_token
            sent = 4 * block.num_layers * chosen * size * _ring_fraction(sizes["expert"])
            add("all-to-all", "expert", sent)


def _adder(traffic: Traffic) -> Add:
    """Return a function that adds bytes to a kind and axis of `traffic`."""

    def add(kind: str, axis: str, size: float) -> None:
        axes = traffic.setdefault(kind, {})
        axes[axis] = axes.get(axis, 0.0) + size

    return add


def _ring_fraction(devices: int) -> float:
    return (devices - 1) / devices


def _axes_of(leaf: jax.ShapeDtypeStruct) -> set[str]:
    """Return the mesh axes that shard an abstract array."""
    sharding: Any = leaf.sharding
    entries = [entry if isinstance(entry, tuple) else (entry,) for entry in sharding.spec]
    return {axis for entry in entries for axis in entry if axis}
