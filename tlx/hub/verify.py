"""The largest difference between our logits and those of the class in `transformers`."""

import importlib.util
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from tlx.base.errors import ConfigError
from tlx.hub.folder import Checkpoint
from tlx.hub.network import Network

# Where a class puts what we call so.
_THEIRS = {
    "mlm": ("prediction_logits", "logits"),
    "nsp": ("seq_relationship_logits", "pooler_output"),
    "sop": ("sop_logits", "pooler_output"),
    "rtd": ("logits",),
    "logits": ("logits",),
    "hidden": ("last_hidden_state",),
}


class Difference(NamedTuple):
    """Of one output: the largest |difference|, and the largest |value| to compare it with."""

    name: str
    largest: float
    scale: float


def compare(checkpoint: Checkpoint, params: Any, length: int = 16) -> list[Difference]:
    """Both models on the same two rows of random ids, float32. ConfigError without transformers and torch."""
    missing = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"verifying needs {' and '.join(missing)}: pip install transformers torch")
    tokens = np.random.default_rng(0).integers(0, checkpoint.config.vocab_size, (2, length))
    wanted = _theirs(checkpoint, tokens)
    batch = _batch(tokens, checkpoint.config.kind)
    module = Network(checkpoint.config, checkpoint.heads)
    found = jax.jit(lambda params, batch: module.apply({"params": params}, batch))(params, batch)
    differences = []
    for name, value in found.items():
        theirs = next((wanted[key] for key in _THEIRS.get(name, ()) if key in wanted), None)
        if theirs is not None and theirs.shape == value.shape:
            largest = float(np.abs(np.asarray(value) - theirs).max())
            differences.append(Difference(name, largest, float(np.abs(theirs).max())))
    return differences


def _theirs(checkpoint: Checkpoint, tokens: np.ndarray) -> dict[str, np.ndarray]:
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    import torch
    import transformers

    architecture = (checkpoint.raw.get("architectures") or [""])[0]
    if not hasattr(transformers, architecture):
        architecture = next(iter(checkpoint.family.architectures))
    model = getattr(transformers, architecture).from_pretrained(
        checkpoint.folder, attn_implementation="eager", dtype=torch.float32
    )
    ids = torch.from_numpy(tokens)
    arguments: Mapping[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if checkpoint.config.kind == "encoder_decoder":
        arguments = {**arguments, "decoder_input_ids": ids}
    with torch.no_grad():
        found = model.eval()(**arguments)
    return {key: value.numpy() for key, value in found.items() if isinstance(value, torch.Tensor)}


def _batch(tokens: np.ndarray, kind: str) -> dict[str, np.ndarray]:
    positions = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
    parts = {"tokens": tokens, "segments": np.ones_like(tokens), "positions": positions}
    prefixes = ("encoder_", "decoder_") if kind == "encoder_decoder" else ("",)
    return {prefix + name: value.astype(np.int32) for prefix in prefixes for name, value in parts.items()}
