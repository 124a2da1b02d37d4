"""What is computed with a loaded model's parameters, one jitted program for each model and shape."""

import functools
from typing import Any

import jax

from tlx.hub.network import Network
from tlx.models.transformer import Transformer
from tlx.models.two_stream import TwoStream
from tlx.objectives.shared.base import ObjectiveModule
from tlx.run import RunConfig
from tlx.run.spec import abstract_batch, spec_of
from tlx.text import Tokenizer
from tlx.training.state import boxed_params


@functools.partial(jax.jit, static_argnums=0)
def forward_hidden(lm: Transformer | TwoStream, params: Any, batch: dict[str, jax.Array]) -> jax.Array:
    """[B, T, D] of what reads the text."""
    if lm.cfg.kind == "encoder_decoder":
        batch = {f"encoder_{name}": value for name, value in batch.items()}
        return lm.apply({"params": params}, batch, method="encode")
    found = Network(lm.cfg).apply({"params": {"model": params}}, batch)
    return found["layers"].mean(axis=0) if lm.cfg.kind == "bilstm" else found["hidden"]


@functools.partial(jax.jit, static_argnums=0)
def forward_logits(module: ObjectiveModule, params: Any, batch: dict[str, jax.Array]) -> jax.Array:
    """float32 [B, T, V] of the module's own predictions."""
    return module.apply({"params": params}, batch, method="logits")


def expected_params(module: ObjectiveModule, config: RunConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    """The module's parameters, abstract and in boxes with their logical names."""
    return boxed_params(module, abstract_batch(config, spec_of(config, tokenizer)))
