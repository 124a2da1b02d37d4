"""Prefixes and prompts in the format of the library `peft`: virtual tokens before a text.

Here P is the number of virtual tokens. In peft a prefix fills the key/value cache and the text starts at
position P; in tlx the text starts at position 0. With rotary positions the two agree once the keys of the
prefix are rotated by P positions; other kinds of positions cannot be converted. In peft a prompt precedes the
whole text; in tlx it follows the first special id of the text, whose embedding therefore becomes the first
virtual token of the export.
"""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from tlx.base import tree
from tlx.base.errors import ConfigError
from tlx.base.files import write_json
from tlx.hub import safetensors, weights
from tlx.hub.peft import CONFIG, TENSORS
from tlx.models.config import ModelConfig
from tlx.nn.position import rotate

_PREFIX = "model/decoder/blocks/attention/prefix/"
_TABLE = "model/embedding/table"
_PROMPT = "model/embedding/prompt"


def save_virtual_tokens(
    folder: str | os.PathLike,
    config: ModelConfig,
    params: Mapping[str, Any],
    base: str,
    begin: Sequence[int],
) -> int:
    """Write the prefix or the prompt of a decoder as a directory that `peft` loads.

    Args:
        folder: The directory to write.
        config: Config of the adapted model.
        params: {"model": ...} of the adapted model.
        base: Path or name of the base model, for adapter_config.json.
        begin: Ids with which texts begin. With a prompt they become virtual tokens: texts that are given to peft
            must not begin with them.

    Returns:
        The number of virtual tokens.

    Raises:
        ConfigError: If peft would compute something else with these virtual tokens.
    """
    adapters = config.adapters
    if bool(adapters.prefix_length) + bool(adapters.prompt_length) != 1 or any(
        (adapters.lora_rank, adapters.bottleneck_dim, adapters.extra_ff_dim)
    ):
        raise ConfigError(
            "virtual tokens for peft need a run with a prefix or a prompt and without other adapters"
        )
    if config.kind != "decoder":
        raise ConfigError(
            f"peft's virtual tokens come first in each stack; those of this {config.kind} do not: "
            "only a decoder's can be exported"
        )
    flat = tree.flatten(params)
    block = config.block("decoder")
    if adapters.prefix_length:
        embeddings = _prefix(config, flat)
        heads = block.num_kv_heads
        width = heads * block.head_dim
    else:
        embeddings = _prompt(config, flat, begin)
        heads = config.attention.num_heads
        width = config.width
    values = {
        "peft_type": "PREFIX_TUNING" if adapters.prefix_length else "PROMPT_TUNING",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "num_virtual_tokens": len(embeddings),
        "token_dim": width,
        "num_transformer_submodules": 1,  # a decoder alone
        "num_attention_heads": heads,
        "num_layers": config.num_layers,
        "inference_mode": True,
    }
    if adapters.prefix_length:
        values |= {"encoder_hidden_size": width, "prefix_projection": False}
    pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
    tensors = [("prompt_embeddings", weights.lazy_tensor(np.ascontiguousarray(embeddings, np.float32)))]
    safetensors.write_file(pathlib.Path(folder) / TENSORS, tensors)
    write_json(pathlib.Path(folder) / CONFIG, values)
    return len(embeddings)


def _prefix(config: ModelConfig, flat: Mapping[str, Any]) -> np.ndarray:
    """Return float32 [P, L * 2 * G * H]: of each virtual token its key and value, layer by layer."""
    if config.position.kind != "rotary":
        raise ConfigError(
            f"peft starts a text after its prefix, at position {config.adapters.prefix_length}: with "
            f"{config.position.kind} positions that is another text than ours, which starts at 0; only a "
            "prefix of a model with rotary positions can be exported"
        )
    if any((config.attention.window, *config.attention.window_pattern)):
        raise ConfigError(
            "in peft a prefix leaves the attention window of a layer that has one, in tlx it does not"
        )
    # [L, P, G, H]
    keys = np.asarray(flat[_PREFIX + "key"])
    values = np.asarray(flat[_PREFIX + "value"])
    # The text starts P positions later in peft, and rotary attention depends on distances only.
    positions = np.full(keys.shape[:2], config.adapters.prefix_length)
    # `rotate` is typed for jax arrays, and takes numpy arrays too.
    keys = np.asarray(rotate(cast(Any, keys), cast(Any, positions), config.position))
    return np.stack((keys, values)).transpose(2, 1, 0, 3, 4).reshape(config.adapters.prefix_length, -1)


def _prompt(config: ModelConfig, flat: Mapping[str, Any], begin: Sequence[int]) -> np.ndarray:
    """Return float32 [n + P, D]: the embeddings of the ids with which texts begin, and those of the prompt."""
    embedding = config.embedding
    if embedding.width or embedding.scale or embedding.cutoffs or embedding.norm:
        raise ConfigError(
            "peft passes a prompt to the model as it is; this model scales, projects or "
            "normalises its embeddings first"
        )
    return np.concatenate([np.asarray(flat[_TABLE])[np.array(begin, int)], np.asarray(flat[_PROMPT])])
