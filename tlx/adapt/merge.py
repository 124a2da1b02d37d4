"""Merging of adapters into the matrices that they adapt, which gives an equal model without adapters."""

import dataclasses
from typing import Any

import numpy as np

from tlx.base import tree
from tlx.base.errors import ConfigError
from tlx.models.config import ModelConfig
from tlx.nn.config import AdapterConfig
from tlx.nn.weight_formats import dequantized_tree
from tlx.optim.leaves import STACK


def merge(model: ModelConfig, params: Any) -> tuple[ModelConfig, dict[str, Any]]:
    """Merge adapters: W + scale A B for LoRA, concatenated units for FL, a prefix for the network that makes it.

    Returns:
        The config of the model without adapters, or with the prefix, and its parameters as nested dicts of arrays.

    Raises:
        ConfigError: The model has bottleneck adapters, a prefix or a prompt, which are part of no matrix.
    """
    adapters = model.adapters
    if adapters.prefix_hidden:
        made = dataclasses.replace(adapters, prefix_hidden=0)
        flat = {path: np.asarray(leaf) for path, leaf in tree.flatten(dequantized_tree(params)).items()}
        return dataclasses.replace(model, adapters=made), tree.unflatten(_with_prefixes(flat))
    for name in ("bottleneck_dim", "prefix_length", "prompt_length"):
        if getattr(adapters, name):
            raise ConfigError(f"model.adapters.{name}: only LoRA and added hidden units can be merged")
    if model.quantization.bits and adapters.any:
        raise ConfigError(
            f"model.quantization.bits = {model.quantization.bits}: adapters were not quantised in training, and "
            "would be as part of a matrix"
        )
    # What the adapters were trained beside is what they are added to.
    flat = {path: np.asarray(leaf) for path, leaf in tree.flatten(dequantized_tree(params)).items()}
    if adapters.lora_rank:
        flat = _with_low_rank(flat, adapters.lora_alpha / adapters.lora_rank)
    if adapters.extra_ff_dim:
        flat = _with_units(flat)
        ff_dim = model.block("encoder").ff_dim + adapters.extra_ff_dim
        model = dataclasses.replace(model, feedforward=dataclasses.replace(model.feedforward, ff_dim=ff_dim))
        if model.decoder_ff_dim:
            model = dataclasses.replace(model, decoder_ff_dim=model.decoder_ff_dim + adapters.extra_ff_dim)
    return dataclasses.replace(model, adapters=AdapterConfig()), tree.unflatten(flat)


def _with_low_rank(flat: dict[str, np.ndarray], scale: float) -> dict[str, np.ndarray]:
    merged = {path: leaf for path, leaf in flat.items() if not path.endswith(("/lora_a", "/lora_b"))}
    for path, a in flat.items():
        if not path.endswith("/lora_a"):
            continue
        stem = path.removesuffix("lora_a")
        kernel = flat[stem + "kernel"]
        b = flat[stem + "lora_b"]
        stacked = STACK in path.split("/")
        lead = kernel.shape[:1] if stacked else (1,)
        rank = a.shape[-1]
        # In float64, so that merging rounds once.
        update = a.reshape(*lead, -1, rank).astype(np.float64) @ b.reshape(*lead, rank, -1).astype(np.float64)
        # In the dtype of what was trained: a frozen bfloat16 kernel could not hold the update.
        dtype = np.promote_types(kernel.dtype, a.dtype)
        merged[stem + "kernel"] = (kernel + scale * update.reshape(kernel.shape)).astype(dtype)
    return merged


def _with_prefixes(flat: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Replace each stack's network by the prefixes that it makes."""
    merged = {path: leaf for path, leaf in flat.items() if "/prefix_network/" not in path}
    for path, table in flat.items():
        if not path.endswith("/prefix_network/table"):
            continue
        network = path.removesuffix("table")
        hidden = np.tanh(table @ flat[network + "in/kernel"] + flat[network + "in/bias"])
        for name in ("key", "value"):
            made = np.einsum("pj,ljgh->lpgh", hidden, flat[f"{network}{name}_kernel"])
            made = made + flat[f"{network}{name}_bias"][:, None]
            stack = network.removesuffix("prefix_network/")
            merged[f"{stack}{STACK}/attention/prefix/{name}"] = made.astype(table.dtype)
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
