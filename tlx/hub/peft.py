"""Low-rank updates as the library `peft` keeps them: adapter_config.json and adapter_model.safetensors.

Where a family packs several of tlx's matrices in one tensor (GPT-2's queries, keys and values), their updates
become one of the sum of their ranks. The factors are found anew from the update in the tensor's own layout,
so that any of a family's layouts does; the scale is in them (lora_alpha = r).
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
from tlx.hub.folder import is_bare
from tlx.hub.pattern import parse
from tlx.models.config import ModelConfig
from tlx.models.families import TABLE, Family
from tlx.models.families.family import WeightMapping
from tlx.nn.config import AdapterConfig
from tlx.optim.leaves import STACK

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
_TASKS = {"decoder": "CAUSAL_LM", "encoder_decoder": "SEQ_2_SEQ_LM"}


class LowRankUpdate(NamedTuple):
    """What a family's layer gets added: y += x A^T B^T, float32 A [r, inputs], B [outputs, r]."""

    module: str  # "transformer.h.0.attn.c_attn"
    a: np.ndarray
    b: np.ndarray
    inputs_first: bool  # the layer stores its kernel [inputs, outputs]


def save_adapter(
    folder: str | os.PathLike,
    family: Family | str,
    architecture: str,
    config: ModelConfig,
    params: Mapping[str, Any],
    base: str,
) -> list[str]:
    """Writes both files; the names of the layers that are adapted.

    architecture: the class that peft wraps ("GPT2LMHeadModel"), without whose head names have no prefix.
    params: {"model": ...} of the adapted model. base: where the base is, for adapter_config.json. Raises
    ConfigError for a model without LoRA, with other adapters too, or whose tensors are no matrices.
    """
    family = TABLE.load(family) if isinstance(family, str) else family
    found = updates(family, architecture, config, params)
    ranks = {update.module: len(update.a) for update in found}
    first = max(ranks.values())
    others = {module: rank for module, rank in ranks.items() if rank != first}
    values = {
        "peft_type": "LORA",
        "task_type": None if is_bare(architecture) else _TASKS.get(config.kind),
        "base_model_name_or_path": base,
        "r": first,
        "lora_alpha": first,
        "rank_pattern": others,
        "alpha_pattern": others,
        "target_modules": list(ranks),
        "fan_in_fan_out": any(update.inputs_first for update in found),
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
        "modules_to_save": None,
    }
    tensors = [
        (f"base_model.model.{update.module}.lora_{name}.weight", weights.lazy_tensor(array))
        for update in found
        for name, array in (("A", update.a), ("B", update.b))
    ]
    pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
    safetensors.write_file(pathlib.Path(folder) / TENSORS, tensors)
    write_json(pathlib.Path(folder) / CONFIG, values)
    return list(ranks)


def updates(
    family: Family, architecture: str, config: ModelConfig, params: Mapping[str, Any]
) -> list[LowRankUpdate]:
    """The updates of all layers, in the order of the family's tensors."""
    adapters = config.adapters
    if not adapters.lora_rank or any(
        (adapters.bottleneck_dim, adapters.prefix_length, adapters.prompt_length, adapters.extra_ff_dim)
    ):
        raise ConfigError(
            "an adapter for peft is made of a run with adapt.method = 'lora', and of that alone"
        )
    flat = tree.flatten(params)
    groups: dict[str, list[WeightMapping]] = {}
    for row in family.rows(dataclasses.replace(config, adapters=AdapterConfig())):
        if row.path in flat:
            groups.setdefault(row.name, []).append(row)
    found = []
    for rows in groups.values():
        adapted = [row for row in rows if _low(row.path) in flat]
        if not adapted:
            continue
        if is_bare(architecture):
            rows = weights.without_prefix(rows, family.prefix)
        changes = {
            row.path: _change(row.path, flat, adapters.lora_alpha / adapters.lora_rank) for row in rows
        }
        inputs_first = _inputs_first(adapted[0], flat[_low(adapted[0].path)].ndim)
        for name, tensor in weights.to_tensors(rows, changes, config.vocab_size).items():
            a, b = _factors(tensor.read(), adapters.lora_rank * len(adapted), inputs_first)
            found.append(LowRankUpdate(name.removesuffix(".weight"), a, b, inputs_first))
    if not found:
        raise ConfigError(f"the family {family.name} has no place for the layers that are adapted")
    return found


def _low(path: str) -> str:
    return path.removesuffix("kernel") + "lora_a"


def _change(path: str, flat: Mapping[str, Any], scale: float) -> np.ndarray:
    """What the kernel at `path` gets added, float64; zeros where it is not adapted."""
    shape = np.shape(flat[path])
    if _low(path) not in flat:
        return np.zeros(shape)
    a, b = (np.asarray(flat[path.removesuffix("kernel") + name], np.float64) for name in ("lora_a", "lora_b"))
    rank, lead = a.shape[-1], shape[:1] if STACK in path.split("/") else (1,)
    return (scale * a.reshape(*lead, -1, rank) @ b.reshape(*lead, rank, -1)).reshape(shape)


def _inputs_first(row: WeightMapping, dims: int) -> bool:
    """Whether the tensor is [inputs, outputs]. `dims`: of A, with its rank and maybe its layers."""
    pattern = parse(row.pattern)
    if pattern is None:
        return True
    inputs = set(pattern.ours[: dims - 1 - (STACK in row.path.split("/"))])
    sides = [{word for word in group if not word.isdigit()} <= inputs for group in pattern.theirs]
    if len(sides) != 2 or sides[0] == sides[1]:
        raise ConfigError(f"{row.name} is no matrix of inputs and outputs: peft cannot adapt it")
    return sides[0]


def _factors(change: np.ndarray, rank: int, inputs_first: bool) -> tuple[np.ndarray, np.ndarray]:
    """float32 A [rank, inputs] and B [outputs, rank] with B A the change, whose rank is no larger.

    B is an orthonormal basis of what the change makes of random inputs, which is all that it can make.
    """
    change = change.T if inputs_first else change
    rank = min(rank, *change.shape)
    basis, _ = np.linalg.qr(change @ np.random.default_rng(0).normal(size=(change.shape[1], rank)))
    return (basis.T @ change).astype(np.float32), basis.astype(np.float32)
