"""Slots that can become part of the matrices beside them: a model without slots that computes the same."""

import dataclasses
from typing import Any

import numpy as np

from tlx.base import tree
from tlx.base.errors import ConfigError
from tlx.models.config import ModelConfig
from tlx.nn.config import AdapterConfig
from tlx.optim.leaves import STACK


def merge(model: ModelConfig, params: Any) -> tuple[ModelConfig, dict[str, Any]]:
    """(the model without slots, its parameters): W + scale A B for LoRA, hidden units side by side for FL.

    Raises ConfigError for slots that are no part of a matrix: adapters, prefixes and prompts.
    """
    slots = model.slots
    left = [name for name in ("adapter", "prefix", "prompt") if getattr(slots, name)]
    if left:
        raise ConfigError(f"model.slots.{left[0]}: only LoRA and added hidden units can be merged")
    flat = {path: np.asarray(leaf) for path, leaf in tree.flatten(params).items()}
    if slots.lora_rank:
        flat = _with_low_rank(flat, slots.lora_alpha / slots.lora_rank)
    if slots.units:
        flat = _with_units(flat)
        hidden = model.block("encoder").hidden + slots.units
        model = dataclasses.replace(model, feedforward=dataclasses.replace(model.feedforward, hidden=hidden))
    return dataclasses.replace(model, slots=AdapterConfig()), tree.unflatten(flat)


def _with_low_rank(flat: dict[str, np.ndarray], scale: float) -> dict[str, np.ndarray]:
    merged = {path: leaf for path, leaf in flat.items() if not path.endswith(("/lora_a", "/lora_b"))}
    for path, a in flat.items():
        if not path.endswith("/lora_a"):
            continue
        stem = path.removesuffix("lora_a")
        kernel, b = flat[stem + "kernel"], flat[stem + "lora_b"]
        stacked = STACK in path.split("/")
        lead = kernel.shape[:1] if stacked else (1,)
        rank = a.shape[-1]
        update = a.reshape(*lead, -1, rank).astype(np.float64) @ b.reshape(*lead, rank, -1).astype(np.float64)
        merged[stem + "kernel"] = (kernel + scale * update.reshape(kernel.shape)).astype(kernel.dtype)
    return merged


def _with_units(flat: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    merged = {path: leaf for path, leaf in flat.items() if "/units_" not in path}
    for path, leaf in flat.items():
        if "/units_" not in path:
            continue
        target = path.replace("/units_", "/")
        name = "/".join(target.split("/")[-2:])
        if name == "out/bias":
            merged[target] = merged[target] + leaf
        else:
            dim = -2 if name == "out/kernel" else -1
            merged[target] = np.concatenate([merged[target], leaf], axis=dim)
    return merged
