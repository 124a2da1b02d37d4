"""A small model of any objective with parameters that hide nothing, and batches of made-up text."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tlx.data.window import Window
from tlx.models.config import HeadConfig, ModelConfig
from tlx.nn.config import AttentionConfig, ExecutionConfig, PositionConfig
from tlx.nn.embed import EmbeddingConfig
from tlx.nn.losses import LossConfig
from tlx.objectives import TABLE
from tlx.objectives.shared.base import ObjectiveModule, ObjectiveSpec
from tlx.parallel import unbox
from tlx.text import Vocabulary

VOCAB = Vocabulary(100, num_sentinels=10)
LENGTH = 24
ENCODER = ModelConfig(
    kind="encoder",
    vocab_size=VOCAB.size,
    width=16,
    num_layers=2,
    block_layout="post",
    position=PositionConfig(max_length=64),
    attention=AttentionConfig(num_heads=2),
    embedding=EmbeddingConfig(num_types=2, norm=True),
    head=HeadConfig(tied=False),
    execution=ExecutionConfig(unroll=1),
)


class Small(NamedTuple):
    """forward(batch, keys, carry, params) -> (terms, carry); logits(table, batch) of row 0 on a mixture."""

    module: ObjectiveModule
    params: Any
    forward: Callable


def spec_of(name: str, config: Any = None, length: int = LENGTH, **kwargs: Any) -> ObjectiveSpec:
    return ObjectiveSpec(config or TABLE.load(name).config_class(), length, VOCAB, **kwargs)


def text(length: int, real: int | None = None, seed: int = 0, first: int = 7, last: int = 89) -> Window:
    """`real` ordinary tokens, none twice where there are enough of them, and padding."""
    real = length if real is None else real
    ids = first + np.random.default_rng(seed).permutation(last - first + 1)
    tokens, segments, positions = np.zeros((3, length), np.int32)
    tokens[:real] = np.resize(ids, real)
    segments[:real], positions[:real] = 1, np.arange(real)
    return Window(tokens, segments, positions)


def batch_of(spec: ObjectiveSpec, windows: list[Window], seed: int = 0) -> dict[str, np.ndarray]:
    objective = TABLE.load(spec.config.name)
    rows = [objective.example(np.random.default_rng(seed + i), w, spec) for i, w in enumerate(windows)]
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}


def small(
    spec: ObjectiveSpec, batch: dict[str, np.ndarray], model: ModelConfig = ENCODER, **changes: Any
) -> Small:
    module = TABLE.load(spec.config.name).module(
        spec.config, dataclasses.replace(model, **changes), LossConfig()
    )
    carry = module.initial_carry(len(batch["weights"]))
    shapes = jax.eval_shape(module.init, jax.random.key(0), batch, carry, None)["params"]
    rng = np.random.default_rng(7)
    params = jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.3, x.shape), x.dtype), unbox(shapes))
    apply = jax.jit(lambda params, batch, carry, keys: module.apply({"params": params}, batch, carry, keys))
    return Small(
        module, params, lambda batch, keys=None, carry=carry, params=params: apply(params, batch, carry, keys)
    )


def log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = np.asarray(logits, np.float64)
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def masked_losses(params: Any, hidden_BPD: np.ndarray, targets: np.ndarray, kernel_VD: np.ndarray):
    """BERT's transform and cross-entropy by their formulas in float64: [B, P]. params: "heads/mlm"."""
    head = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    x = gelu(hidden_BPD.astype(np.float64) @ head["dense"]["kernel"] + head["dense"]["bias"])
    x = layer_norm(x, head["norm"])
    logits = (x @ np.asarray(kernel_VD, np.float64).T + head["bias"])[..., : VOCAB.size]
    return -np.take_along_axis(log_softmax(logits), targets[..., None], axis=-1)[..., 0]


def gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def layer_norm(x: np.ndarray, norm: Any, eps: float = 1e-5) -> np.ndarray:
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)
    return x * np.asarray(norm["scale"], np.float64) + np.asarray(norm["bias"], np.float64)


def at(hidden_BTD: np.ndarray, places_BP: np.ndarray) -> np.ndarray:
    """hidden states [B, P, D] at the places."""
    return np.take_along_axis(np.asarray(hidden_BTD), places_BP[..., None], axis=1)
