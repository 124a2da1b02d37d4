"""Comparison of the outputs of a converted model with those of its class in `transformers`."""

import importlib.util
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from tlx.base.errors import ConfigError
from tlx.hub import config_file
from tlx.hub.folder import Checkpoint
from tlx.hub.network import Network

# Names of the same output in classes of `transformers`, in order of preference.
_OUTPUT_NAMES = {
    "mlm": ("prediction_logits", "logits"),
    "nsp": ("seq_relationship_logits", "pooler_output"),
    "sop": ("sop_logits", "pooler_output"),
    "rtd": ("logits",),
    "logits": ("logits",),
    "hidden": ("last_hidden_state",),
    "encoded": ("encoder_last_hidden_state",),
    "start": ("start_logits",),
    "end": ("end_logits",),
}


class Difference(NamedTuple):
    """The difference between both models in one output."""

    name: str
    """Name of the output in tlx ("logits", "mlm")."""
    largest: float
    """Largest absolute difference."""
    scale: float
    """Largest absolute value of the output of `transformers`."""


def require_libraries() -> None:
    """Raise ConfigError where the packages that run the original are not installed."""
    missing = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"verifying needs {' and '.join(missing)}: pip install transformers torch")


def compare(checkpoint: Checkpoint, params: Any, length: int = 16) -> list[Difference]:
    """Run both models in float32 on the same two sequences of random ids.

    Args:
        checkpoint: The opened Hugging Face directory.
        params: Parameters of the checkpoint, as `checkpoint.read` returns them.
        length: Number of ids in a sequence.

    Returns:
        The difference of each output that both models have.

    Raises:
        ConfigError: If transformers or torch is not installed.
    """
    require_libraries()
    tokens = np.random.default_rng(0).integers(0, checkpoint.config.vocab_size, (2, length))
    pad = checkpoint.raw.get("pad_token_id")
    if isinstance(pad, int):
        # Classes number positions, and look for the last token, by the ids that are not padding.
        tokens = np.where(tokens == pad, (pad + 1) % checkpoint.config.vocab_size, tokens)
    head = checkpoint.task_head
    is_shifted = head is not None and checkpoint.config.kind == "encoder_decoder"
    if is_shifted:
        tokens = _with_one_end(tokens, checkpoint.raw)
    expected = _transformers_outputs(checkpoint, tokens)
    batch = _batch(tokens, checkpoint.config.kind)
    if is_shifted:
        start = checkpoint.raw.get("decoder_start_token_id") or 0
        batch["decoder_tokens"] = np.pad(tokens[:, :-1], ((0, 0), (1, 0)), constant_values=start).astype(
            np.int32
        )
    module = Network(checkpoint.config, checkpoint.heads, checkpoint.task_head)
    outputs = jax.jit(lambda params, batch: module.apply({"params": params}, batch))(params, batch)
    if head is not None and head.kind == "span":
        outputs = {"start": outputs[head.task][..., 0], "end": outputs[head.task][..., 1]}
    differences = []
    for name, value in outputs.items():
        reference = next(
            (expected[key] for key in _OUTPUT_NAMES.get(name, ("logits",)) if key in expected), None
        )
        if reference is not None and reference.shape == value.shape:
            largest = float(np.abs(np.asarray(value) - reference).max())
            differences.append(Difference(name, largest, float(np.abs(reference).max())))
    return differences


def _with_one_end(tokens: np.ndarray, values: Mapping[str, Any]) -> np.ndarray:
    """Return rows whose last id, and no other, is eos: what a class with a head reads the state of."""
    end = values.get("eos_token_id")
    if not isinstance(end, int):
        return tokens
    tokens = np.where(tokens == end, (end + 1) % values["vocab_size"], tokens)
    tokens[:, -1] = end
    return tokens


def _transformers_outputs(checkpoint: Checkpoint, tokens: np.ndarray) -> dict[str, np.ndarray]:
    """Run the class of `transformers` on `tokens` [2, T]."""
    # Before the import, which reads it.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    import torch
    import transformers

    architecture = config_file.named_class(checkpoint.raw)
    if not hasattr(transformers, architecture):
        architecture = next(iter(checkpoint.family.architectures))
    model = getattr(transformers, architecture).from_pretrained(
        checkpoint.folder, attn_implementation="eager", dtype=torch.float32
    )
    ids = torch.from_numpy(tokens)
    arguments: Mapping[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if checkpoint.config.kind == "encoder_decoder" and checkpoint.task_head is None:
        arguments = {**arguments, "decoder_input_ids": ids}
    with torch.no_grad():
        outputs = model.eval()(**arguments)
    return {key: value.numpy() for key, value in outputs.items() if isinstance(value, torch.Tensor)}


def _batch(tokens: np.ndarray, kind: str) -> dict[str, np.ndarray]:
    """Return the batch of one unpadded document per row; both stacks of an encoder-decoder read `tokens`."""
    positions = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
    parts = {"tokens": tokens, "segments": np.ones_like(tokens), "positions": positions}
    prefixes = ("encoder_", "decoder_") if kind == "encoder_decoder" else ("",)
    return {prefix + name: value.astype(np.int32) for prefix in prefixes for name, value in parts.items()}
