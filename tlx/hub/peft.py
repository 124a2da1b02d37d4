"""LoRA adapters in the format of the library `peft`: adapter_config.json and adapter_model.safetensors.

Where a family packs several of tlx's matrices in one tensor (GPT-2's queries, keys and values), their updates
become one whose rank is the sum of their ranks. The factors are recomputed from the update in the layout of
the Hugging Face tensor, so that every layout of a family is supported. They include the LoRA scale
(lora_alpha = r).
"""

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from tlx.base import tree
from tlx.base.errors import ConfigError
from tlx.base.files import write_json
from tlx.hub import safetensors, weights
from tlx.hub.architecture import is_bare
from tlx.hub.folder import as_family
from tlx.hub.pattern import parse
from tlx.models.config import ModelConfig
from tlx.models.families import Family
from tlx.models.families.family import WeightMapping
from tlx.nn.config import AdapterConfig
from tlx.optim.leaves import STACK

CONFIG = "adapter_config.json"
TENSORS = "adapter_model.safetensors"
_TASKS = {"decoder": "CAUSAL_LM", "encoder_decoder": "SEQ_2_SEQ_LM"}


class LowRankUpdate(NamedTuple):
    """The low-rank update of one linear layer: y += x A^T B^T."""

    module: str
    """Name of the Hugging Face module ("transformer.h.0.attn.c_attn")."""
    a: np.ndarray
    """A, float32 [rank, inputs]."""
    b: np.ndarray
    """B, float32 [outputs, rank]."""
    inputs_first: bool
    """Whether the layer stores its kernel as [inputs, outputs]."""


def save_adapter(
    folder: str | os.PathLike,
    family: Family | str,
    architecture: str,
    config: ModelConfig,
    params: Mapping[str, Any],
    base: str,
) -> list[str]:
    """Write a LoRA adapter as a directory that `peft` loads.

    Args:
        folder: The directory to write.
        family: The family of the base model, or its name.
        architecture: The Hugging Face class that peft wraps ("GPT2LMHeadModel"); tensor names of a class
            without a head have no prefix.
        config: Config of the adapted model.
        params: {"model": ...} of the adapted model.
        base: Path or name of the base model, for adapter_config.json.

    Returns:
        The names of the adapted modules.

    Raises:
        ConfigError: If the model has no LoRA, has other adapters as well, or if an adapted tensor is not a
            matrix.
    """
    family = as_family(family)
    low_rank_updates = updates(family, architecture, config, params)
    ranks = {update.module: len(update.a) for update in low_rank_updates}
    max_rank = max(ranks.values())
    rank_pattern = {module: rank for module, rank in ranks.items() if rank != max_rank}
    values = {
        "peft_type": "LORA",
        "task_type": None if is_bare(architecture) else _TASKS.get(config.kind),
        "base_model_name_or_path": base,
        "r": max_rank,
        "lora_alpha": max_rank,  # the factors include the scale
        "rank_pattern": rank_pattern,
        "alpha_pattern": rank_pattern,
        "target_modules": list(ranks),
        "fan_in_fan_out": any(update.inputs_first for update in low_rank_updates),
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
        "modules_to_save": None,
    }
    tensors = [
        (f"base_model.model.{update.module}.lora_{name}.weight", weights.lazy_tensor(array))
        for update in low_rank_updates
        for name, array in (("A", update.a), ("B", update.b))
    ]
    pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
    safetensors.write_file(pathlib.Path(folder) / TENSORS, tensors)
    write_json(pathlib.Path(folder) / CONFIG, values)
    return list(ranks)


def updates(
    family: Family, architecture: str, config: ModelConfig, params: Mapping[str, Any]
) -> list[LowRankUpdate]:
    """Compute the low-rank updates of all adapted layers.

    Args:
        family: The family of the base model.
        architecture: The Hugging Face class that peft wraps.
        config: Config of the adapted model.
        params: {"model": ...} of the adapted model.

    Returns:
        The updates, in the order of the family's tensors.

    Raises:
        ConfigError: If the model has no LoRA, has other adapters as well, or if an adapted tensor is not a
            matrix.
    """
    adapters = config.adapters
    if not adapters.lora_rank or any(
        (adapters.bottleneck_dim, adapters.prefix_length, adapters.prompt_length, adapters.extra_ff_dim)
    ):
        raise ConfigError(
            "an adapter for peft needs a run with adapt.method = 'lora' and without other adapters"
        )
    flat = tree.flatten(params)
    groups: dict[str, list[WeightMapping]] = {}
    for row in family.rows(dataclasses.replace(config, adapters=AdapterConfig())):
        if row.path in flat:
            groups.setdefault(row.name, []).append(row)
    low_rank_updates = []
    for rows in groups.values():
        adapted = [row for row in rows if _lora_a_path(row.path) in flat]
        if not adapted:
            continue
        if is_bare(architecture):
            rows = weights.without_prefix(rows, family.prefix)
        scale = adapters.lora_alpha / adapters.lora_rank
        deltas = {row.path: _kernel_delta(row.path, flat, scale) for row in rows}
        inputs_first = _inputs_first(adapted[0], flat[_lora_a_path(adapted[0].path)].ndim)
        for name, tensor in weights.to_tensors(rows, deltas, config.vocab_size).items():
            a, b = _factors(tensor.read(), adapters.lora_rank * len(adapted), inputs_first)
            low_rank_updates.append(LowRankUpdate(name.removesuffix(".weight"), a, b, inputs_first))
    if not low_rank_updates:
        raise ConfigError(f"the family {family.name} has no tensors for the layers that are adapted")
    return low_rank_updates


def _lora_a_path(kernel_path: str) -> str:
    return kernel_path.removesuffix("kernel") + "lora_a"


def _kernel_delta(path: str, flat: Mapping[str, Any], scale: float) -> np.ndarray:
    """Compute the LoRA update of the kernel at `path` in float64; zeros if it is not adapted."""
    shape = np.shape(flat[path])
    if _lora_a_path(path) not in flat:
        return np.zeros(shape)
    prefix = path.removesuffix("kernel")
    a = np.asarray(flat[prefix + "lora_a"], np.float64)
    b = np.asarray(flat[prefix + "lora_b"], np.float64)
    rank = a.shape[-1]
    # Inputs and outputs of a kernel may each span several dims: the product is one matmul for each layer.
    layers = shape[:1] if STACK in path.split("/") else (1,)
    return (scale * a.reshape(*layers, -1, rank) @ b.reshape(*layers, rank, -1)).reshape(shape)


def _inputs_first(row: WeightMapping, lora_a_ndim: int) -> bool:
    """Tell whether the tensor is [inputs, outputs]. A has the input dims, its rank and maybe the layers."""
    pattern = parse(row.pattern)
    if pattern is None:
        return True
    inputs = set(pattern.param_dims[: lora_a_ndim - 1 - (STACK in row.path.split("/"))])
    sides = [{word for word in group if not word.isdigit()} <= inputs for group in pattern.tensor_dims]
    if len(sides) != 2 or sides[0] == sides[1]:
        raise ConfigError(f"{row.name} is not a matrix of inputs and outputs: peft cannot adapt it")
    return sides[0]


def _factors(delta: np.ndarray, rank: int, inputs_first: bool) -> tuple[np.ndarray, np.ndarray]:
    """Factor `delta`, of rank at most `rank`, into float32 A [rank, inputs] and B [outputs, rank].

    B is an orthonormal basis of the images of `rank` random inputs, which span the range of `delta`
    (Halko et al. 2011, Finding Structure with Randomness, algorithm 4.1).
    """
    delta = delta.T if inputs_first else delta
    rank = min(rank, *delta.shape)
    random_inputs = np.random.default_rng(0).normal(size=(delta.shape[1], rank))
    basis, _ = np.linalg.qr(delta @ random_inputs)
    return (basis.T @ delta).astype(np.float32), basis.astype(np.float32)
