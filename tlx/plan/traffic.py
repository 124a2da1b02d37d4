"""The least that a layout must send between devices in a step: by kind of collective and mesh axis.

Bytes that one device sends over the best ring: a gather (n-1)/n of what comes out, a scatter (n-1)/n of what
goes in, a reduction twice that. Parameters travel in the dtype of the computation. Small things (norms,
sums of the loss) count nothing.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from tlx.plan.footprint import Program, RunConfig

Traffic = dict[str, dict[str, float]]  # {kind: {axis: bytes}}


def least_traffic(config: RunConfig, made: Program) -> Traffic:
    """What the layout needs, however well it is compiled."""
    sizes, found = dict(made.mesh.shape), {}
    add = _adder(found)
    width = jnp.dtype(config.model.block("encoder").dtype).itemsize
    kernels, shards = _sizes(made.state.params, sizes["fsdp"], width)
    frozen, _ = _sizes(made.state.frozen, sizes["fsdp"], width)
    parts, fsdp = config.train.microbatches, sizes["fsdp"]
    if fsdp > 1:
        # Once for the forward pass and once for the backward pass, of every microbatch.
        add("all-gather", "fsdp", 2 * parts * (kernels + frozen) * _share(fsdp))
        add("reduce-scatter", "fsdp", parts * kernels * _share(fsdp))
    for axis in ("data", "context"):
        if sizes[axis] > 1:
            add("all-reduce", axis, 2 * shards * _share(sizes[axis]))
    _activations(config, made, sizes, width, add)
    return found


def _sizes(params: Any, fsdp: int, width: int) -> tuple[float, float]:
    """Bytes of the matrices that the fsdp axis splits, gathered over it, and of a device's shards of all."""
    kernels, shards = 0.0, 0.0
    for leaf in jax.tree.leaves(params):
        shard = math.prod(leaf.sharding.shard_shape(leaf.shape)) * width
        kernels += shard * (fsdp if "fsdp" in _axes_of(leaf) and leaf.ndim > 1 else 0)
        shards += shard
    return kernels, shards


def total(traffic: Traffic) -> float:
    """Bytes that a device sends in a step."""
    return sum(size for axes in traffic.values() for size in axes.values())


def _activations(config: RunConfig, made: Program, sizes: Mapping[str, int], width: int, add) -> None:
    model, ways = config.model, sizes["data"] * sizes["fsdp"] * sizes["expert"] * sizes["context"]
    lengths = {name: leaf.shape[1] for name, leaf in made.batch.items() if name.endswith("tokens")}
    rows = config.train.batch_size
    for name, length in lengths.items():
        stack = "decoder" if name.startswith("decoder") or model.kind == "decoder" else "encoder"
        block = model.block(stack)
        size = rows * length * model.width * width / ways
        if sizes["tensor"] > 1:
            # Two products a layer (three with cross-attention) end in a sum over the axis, and as many
            # of their gradients; so do the table's rows, and the gradient of the logits' input.
            sums = (6 if block.cross else 4) * block.num_layers + (2 if stack == "decoder" else 1)
            sums += 1 if model.kind != "encoder_decoder" and stack == "encoder" else 0
            add("all-reduce", "tensor", 2 * sums * size * _share(sizes["tensor"]))
        if sizes["context"] > 1:
            keys = rows * length * block.num_kv_heads * block.head_dim * width * sizes["context"] / ways
            keys /= sizes["tensor"]
            # Keys and values of the whole row, forward and backward, and their gradients.
            add("all-gather", "context", 4 * block.num_layers * keys * _share(sizes["context"]))
            add("reduce-scatter", "context", 2 * block.num_layers * keys * _share(sizes["context"]))
        if sizes["expert"] > 1 and block.feedforward.num_experts:
            chosen = block.feedforward.experts_per_token
            add("all-to-all", "expert", 4 * block.num_layers * chosen * size * _share(sizes["expert"]))


def _adder(found: Traffic):
    def add(kind: str, axis: str, size: float) -> None:
        axes = found.setdefault(kind, {})
        axes[axis] = axes.get(axis, 0.0) + size

    return add


def _share(devices: int) -> float:
    return (devices - 1) / devices


def _axes_of(leaf: jax.ShapeDtypeStruct) -> set[str]:
    entries = [entry if isinstance(entry, tuple) else (entry,) for entry in leaf.sharding.spec]
    return {axis for entry in entries for axis in entry if axis}
