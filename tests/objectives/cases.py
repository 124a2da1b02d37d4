"""One small case of every objective, and what tests ask of it: loss, logits, and what each target sees.

Texts have distinct tokens and the output kernel is untied, so that the gradient with respect to a row of
the token table is the gradient with respect to the one place in the input that shows this token.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tlx.data.window import Window
from tlx.models.config import HeadConfig, ModelConfig
from tlx.nn.config import AttentionConfig, ExecutionConfig, NormConfig, PositionConfig
from tlx.nn.embed import EmbeddingConfig
from tlx.nn.losses import LossConfig
from tlx.nn.recurrent import RecurrentConfig
from tlx.objectives import TABLE, bart, mbart, mlm, plm, span_corruption
from tlx.objectives.shared.base import Objective, ObjectiveModule, ObjectiveSpec
from tlx.parallel import unbox
from tlx.text import Vocabulary

VOCAB = Vocabulary(100, num_sentinels=10)
LENGTH = 24
# Where the defaults would leave too little to see in a row of LENGTH tokens.
_CONFIGS = {
    "bart": bart.BART(mask_fraction=0.6),
    "mbart": mbart.MBART(mask_fraction=0.6),
    "mlm": mlm.MLM(masking_rate=0.4),
    "span_corruption": span_corruption.SpanCorruption(noise_density=0.3, mean_noise_span_length=2),
    "plm": plm.PLM(num_predict=10, reuse_len=12, mem_len=16, mask_alpha=2),
}
CONFIGS = {name: _CONFIGS.get(name) or TABLE.load(name).config_class() for name in TABLE}
MODEL = ModelConfig(
    vocab_size=VOCAB.size,
    width=16,
    num_layers=2,
    attention=AttentionConfig(num_heads=2),
    head=HeadConfig(tied=False),
    execution=ExecutionConfig(unroll=1),
)
_KINDS = {
    "decoder": MODEL,
    "encoder": dataclasses.replace(
        MODEL, kind="encoder", block_layout="post", embedding=EmbeddingConfig(norm=True)
    ),
    "encoder_decoder": dataclasses.replace(
        MODEL,
        kind="encoder_decoder",
        position=PositionConfig(kind="relative_bias"),
        norm=NormConfig("rmsnorm"),
    ),
    "bilstm": dataclasses.replace(MODEL, kind="bilstm", recurrent=RecurrentConfig(cell_dim=12)),
    "two_stream": dataclasses.replace(
        MODEL, kind="two_stream", block_layout="post", position=PositionConfig(kind="relative_sinusoidal")
    ),
}
MODELS = {name: _KINDS[TABLE.load(name).kinds[0]] for name in TABLE}


# One of each module whose loss is a plain cross-entropy: what holds for it holds for the others with the same
# module, whose arrays mean the same.
MODULES = ("clm", "mlm", "plm", "prefix_lm", "span_corruption")


def objective_and_spec(name: str, config: Any = None) -> tuple[Objective, ObjectiveSpec]:
    return TABLE.load(name), ObjectiveSpec(config or CONFIGS[name], LENGTH, VOCAB)


def module_of(name: str, model: ModelConfig | None, config: Any) -> ObjectiveModule:
    return TABLE.load(name).module(config or CONFIGS[name], model or MODELS[name], LossConfig())


def distinct_text(length: int, segments: list[int] | None = None, seed: int = 0, skip: int = 0) -> Window:
    """Ordinary tokens, none twice; `segments` are the lengths of documents, the rest is padding. Another
    `skip` gives other tokens."""
    tokens = 7 + np.random.default_rng(seed).permutation(83)[skip : skip + length].astype(np.int32)
    lengths = segments or [length]
    ids = np.zeros(length, np.int32)
    ids[: sum(lengths)] = np.repeat(1 + np.arange(len(lengths)), lengths)
    positions = np.where(ids > 0, np.arange(length) - np.searchsorted(ids, ids), 0).astype(np.int32)
    return Window(np.where(ids > 0, tokens, VOCAB.pad).astype(np.int32), ids, positions)


def batch_of(name: str, segments: list[list[int] | None], config: Any = None) -> dict[str, np.ndarray]:
    objective, spec = objective_and_spec(name, config)
    reads = objective.window_spec(spec)
    rows = []
    for seed, lengths in enumerate(segments):
        text = distinct_text(reads.length, lengths, seed)
        if reads.second_length:
            text = text._replace(second=distinct_text(reads.second_length, lengths, seed, skip=reads.length))
        rows.append(objective.example(np.random.default_rng(seed), text, spec))
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}


class Compiled(NamedTuple):
    """A module with parameters that hide nothing (no zero biases, no unit gains), and what tests ask of it.

    forward(batch, carry, keys) -> (terms, logits, carry); gradient(batch) of its mean loss;
    jacobian(batch): d(a mixture of the logits of row 0's place p) / d(embedding of id v), [P, V, D].
    """

    module: ObjectiveModule
    params: Any
    forward: Callable
    gradient: Callable
    jacobian: Callable


@functools.cache
def compiled(name: str, model: ModelConfig | None = None, config: Any = None) -> Compiled:
    module = module_of(name, model, config)
    shapes = jax.eval_shape(module.init, jax.random.key(0), batch_of(name, [None], config))["params"]
    rng = np.random.default_rng(7)
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.3, leaf.shape), leaf.dtype), unbox(shapes))
    mix = rng.normal(size=VOCAB.size).astype(np.float32)

    def forward(params, batch, carry, keys):
        terms, new_carry = module.apply({"params": params}, batch, carry, keys)
        return terms, module.apply({"params": params}, batch, carry, method="logits"), new_carry

    def loss(params, batch):
        term = module.apply({"params": params}, batch)[0]["loss"]
        return term.sum / term.weight

    def scores(table, batch):
        model_params = {**params["model"], "embedding": {"table": table}}
        return module.apply({"params": {**params, "model": model_params}}, batch, method="logits")[0] @ mix

    forward, gradient = jax.jit(forward), jax.jit(jax.grad(loss))
    jacobian = jax.jit(jax.jacrev(scores))
    return Compiled(
        module,
        params,
        lambda batch, carry=None, keys=None: forward(params, batch, carry, keys),
        lambda batch: gradient(params, batch),
        lambda batch: jacobian(params["model"]["embedding"]["table"], batch),
    )


def influence(name: str, batch: dict[str, np.ndarray], config: Any = None) -> np.ndarray:
    """[P, V]: how much the embedding of id v matters to the logits of place p of a batch of one row."""
    return np.linalg.norm(np.asarray(compiled(name, None, config).jacobian(batch)), axis=-1)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = logits.astype(np.float64)
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
