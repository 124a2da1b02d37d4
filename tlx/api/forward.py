"""Jitted forward passes of a loaded model, compiled once per model and shape."""

import functools
from typing import Any, cast

import jax

from tlx.hub.network import Network
from tlx.models.transformer import Transformer
from tlx.models.two_stream import TwoStream
from tlx.objectives.shared.base import ObjectiveModule
from tlx.parallel import constrain
from tlx.run import RunConfig
from tlx.run.spec import abstract_batch, spec_of
from tlx.text import Tokenizer
from tlx.training.state import boxed_params


@functools.partial(jax.jit, static_argnums=0)
def forward_hidden(lm: Transformer | TwoStream, params: Any, batch: dict[str, jax.Array]) -> jax.Array:
    """Compute the last hidden states of the stack that reads the text.

    Args:
        lm: The language model; static in the compiled program.
        params: Its parameters, those under "model".
        batch: tokens, segments and positions [B, T], and characters where the model reads them.

    Returns:
        [B, T, D]; of a bilstm the mean over its layers.
    """
    if lm.cfg.kind == "encoder_decoder":
        batch = {f"encoder_{name}": value for name, value in batch.items()}
        return cast(jax.Array, lm.apply({"params": params}, batch, method="encode"))
    outputs = cast(Any, Network(lm.cfg).apply({"params": {"model": params}}, batch))
    return outputs["layers"].mean(axis=0) if lm.cfg.kind == "bilstm" else outputs["hidden"]


@functools.partial(jax.jit, static_argnums=0)
def forward_logits(module: ObjectiveModule, params: Any, batch: dict[str, jax.Array]) -> jax.Array:
    """Compute the logits of the objective's predictions.

    Args:
        module: The objective's module; static in the compiled program.
        params: Its parameters {"model": ..., "heads": ...}.
        batch: The arrays that the module reads, [B, T].

    Returns:
        float32 [B, T, V].
    """
    logits = cast(jax.Array, module.apply({"params": params}, batch, method="logits"))
    # Replicated within a mesh, so that every process can read all of them.
    return constrain(logits, (None,) * logits.ndim)


def expected_params(module: ObjectiveModule, config: RunConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the module's abstract parameters, boxed with their logical axis names.

    Args:
        module: The objective's module.
        config: Config of the run, which gives the shapes of a batch.
        tokenizer: Tokenizer of the run.

    Returns:
        A tree of boxed jax.ShapeDtypeStructs.
    """
    return boxed_params(module, abstract_batch(config, spec_of(config, tokenizer)))
