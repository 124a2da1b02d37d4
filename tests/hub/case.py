"""One class of `transformers`, small and with every feature away from its default, as both sides see it."""

import dataclasses
import re
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from tlx.hub import safetensors
from tlx.hub.network import Network
from tlx.hub.weights import LazyTensor
from tlx.models.families.family import resized
from tlx.models.two_stream import Memory
from tlx.nn.config import ExecutionConfig

TOLERANCE = 1e-5  # of the largest |logit|: a wrong form of GELU moves them by 4e-4
NUM_ROWS, LENGTH, SOURCE_LENGTH = 4, 11, 14
NUM_TARGETS, MEMORY = 3, 5  # of two streams


@dataclasses.dataclass(frozen=True)
class Case:
    """config: arguments of `config_class`. outputs: ours ("mlm", "hidden", ...) to names of theirs.

    inputs: "encoder", "decoder", "encoder_decoder" or "two_stream" (with an order and a memory).
    types, languages: how many, 0 for none. keep: names of tensors that stay as they are (fixed sinusoids).
    padding: where short rows have it; "none": no row is short.
    """

    architecture: str
    config_class: str
    config: Mapping[str, Any]
    outputs: Mapping[str, str]
    inputs: str = "encoder"
    types: int = 0
    languages: int = 0
    keep: str = "^$"
    padding: str = "right"
    untied: bool = False  # an output matrix of its own, which the class would not make (T5 in transformers 5)
    ignore: tuple[str, ...] = ()
    small: bool = False  # of what it gives, only the logits of the first two rows are recorded


def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Weights N(0, .15), gains of norms and layers 1 + N(0, .15): the usual initialisation hides errors."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    values = rng.normal(0, 0.15, shape).astype(np.float32)
    gain = len(shape) == 1 and re.search(r"(weight|layer_scalar)$", name)
    return values + np.float32(1) if gain else values


def inputs(case: Case, vocab_size: int, pad: int) -> dict[str, np.ndarray]:
    """tokens, mask (and types), with source_ in front for an encoder: the middle rows are short."""
    rng = np.random.default_rng(7)
    made: dict[str, np.ndarray] = {}
    sides = {"": LENGTH} | ({"source_": SOURCE_LENGTH} if case.inputs == "encoder_decoder" else {})
    for side, length in sides.items():
        short = (0, 0) if case.padding == "none" else (4, 1)
        lengths = np.array([length, length - short[0], length - short[1], length])[:, None]
        places = np.arange(length)[None]
        mask = places >= length - lengths if case.padding == "left" else places < lengths
        tokens = rng.integers(5, vocab_size, (NUM_ROWS, length))
        tokens = np.where(tokens == pad, (pad + 1) % vocab_size, tokens)
        made[f"{side}tokens"] = np.where(mask, tokens, pad)
        made[f"{side}mask"] = mask.astype(np.int32)
        if case.types:
            made[f"{side}types"] = np.where(places < length // 2, 0, case.types - 1) * mask
        if case.languages:
            made[f"{side}langs"] = np.where(places < length // 3, 1, case.languages - 1) * mask
    if case.inputs == "two_stream":
        made |= _order(rng, case)
    return made


def _order(rng: np.random.Generator, case: Case) -> dict[str, np.ndarray]:
    """An order of prediction as PLM's, its targets, and a memory [B, L, M, D]."""
    targets = np.stack([np.sort(rng.permutation(LENGTH - 4)[:NUM_TARGETS]) for _ in range(NUM_ROWS)])
    is_target = np.zeros((NUM_ROWS, LENGTH), bool)
    np.put_along_axis(is_target, targets, True, axis=1)
    order = np.stack([rng.permutation(LENGTH) for _ in range(NUM_ROWS)])
    shape = (NUM_ROWS, case.config["n_layer"], MEMORY, case.config["d_model"])
    return {
        "rank": np.where(is_target, order, -1),
        "query_rank": np.where(is_target, order, 0),
        "target_positions": targets,
        "memory": rng.normal(size=shape).astype(np.float32),
    }


def ours(made: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The batch that a tlx model reads."""
    names = {"": "decoder_", "source_": "encoder_"} if "source_tokens" in made else {"": ""}
    batch = {}
    for side, prefix in names.items():
        mask = made[f"{side}mask"]
        batch[f"{prefix}tokens"] = made[f"{side}tokens"].astype(np.int32)
        batch[f"{prefix}segments"] = mask
        batch[f"{prefix}positions"] = np.maximum(np.cumsum(mask, axis=1) - 1, 0).astype(np.int32)
        for extra in ("types", "langs", "rank", "query_rank", "target_positions"):
            if f"{side}{extra}" in made:
                batch[f"{prefix}{extra}"] = made[f"{side}{extra}"].astype(np.int32)
    return batch


def write_folder(folder: Any, shapes: Mapping[str, Any], kept: Mapping[str, np.ndarray]) -> None:
    """model.safetensors with drawn weights."""
    tensors = []
    for name, shape in shapes.items():
        values = kept[name] if name in kept else draw(name, tuple(shape))
        tensors.append((name, LazyTensor(values.shape, values.dtype, lambda _, values=values: values)))
    safetensors.write(folder, tensors)


def network_and_inputs(checkpoint: Any, made: Mapping[str, np.ndarray]) -> tuple[Network, Any, Any]:
    """(the module with its layers not unrolled, its batch, its memory) of an opened checkpoint."""
    memory = None
    if "memory" in made:
        memory = Memory(made["memory"], np.ones((NUM_ROWS, MEMORY), np.int32))
    config = resized(checkpoint.config, execution=ExecutionConfig(unroll=1, attention="xla"))
    return Network(config, checkpoint.heads), ours(made), memory


def run(checkpoint: Any, made: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The outputs of an opened checkpoint, compiled as one function."""
    module, *given = network_and_inputs(checkpoint, made)
    apply = jax.jit(lambda params, *inputs: module.apply({"params": params}, *inputs))
    found = apply(checkpoint.read(), *given)
    return {name: np.asarray(value) for name, value in found.items()}


def visible(output: str, made: Mapping[str, np.ndarray]) -> np.ndarray:
    """Which places of an output are no padding: all targets are none."""
    if output == "logits" and "target_positions" in made:
        return np.ones_like(made["target_positions"])
    return made["source_mask" if output == "encoded" else "mask"]


def difference(found: np.ndarray, wanted: np.ndarray, mask: np.ndarray) -> float:
    """The largest difference at places that are no padding, in units of the largest |value|."""
    if found.ndim > 1 and found.shape[:2] == mask.shape:
        found, wanted = found[mask > 0], wanted[mask > 0]
    assert found.shape == wanted.shape, (found.shape, wanted.shape)
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())
