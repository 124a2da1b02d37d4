"""Prefixes and prompts as the library `peft` keeps them: virtual tokens before a text.

peft's prefix fills the cache of keys and values, and its text begins behind that, at position P; tlx's text
begins at 0. With rotary positions that is the same once the keys are turned by P places; positions of any
other kind would be those of another text. peft's prompt stands before the whole text; tlx's stands behind the
text's first special id, whose embedding is therefore the first virtual token there.
"""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from tlx.base import tree
from tlx.base.errors import ConfigError
from tlx.base.files import write_json
from tlx.hub import safetensors, weights
from tlx.hub.peft import CONFIG, TENSORS
from tlx.models.config import ModelConfig
from tlx.nn.position import rotate

_PREFIX = "model/decoder/blocks/attention/prefix/"
_TABLE, _PROMPT = "model/embedding/table", "model/embedding/prompt"


def save_virtual_tokens(
    folder: str | os.PathLike, config: ModelConfig, params: Mapping[str, Any], base: str, begin: int
) -> int:
    """Writes both files of a decoder with a prefix or a prompt; how many virtual tokens it has.

    params: {"model": ...} of the adapted model. base: where the base is, for adapter_config.json. begin: the
    id that texts begin with; with a prompt it is one of the virtual tokens, and no text that peft is given
    begins with it. Raises ConfigError where peft's form says something else than tlx's.
    """
    adapters = config.adapters
    if bool(adapters.prefix_length) + bool(adapters.prompt_length) != 1 or any(
        (adapters.lora_rank, adapters.bottleneck_dim, adapters.extra_ff_dim)
    ):
        raise ConfigError(
            "virtual tokens for peft are made of a run with a prefix or a prompt, and of that alone"
        )
    if config.kind != "decoder":
        raise ConfigError(
            f"peft's virtual tokens stand before all else in each tower; those of this {config.kind} do not: "
            "only a decoder's can be exported"
        )
    flat = tree.flatten(params)
    tokens_PE = _prefix(config, flat) if adapters.prefix_length else _prompt(config, flat, begin)
    block = config.block("decoder")
    heads = block.num_kv_heads if adapters.prefix_length else config.attention.num_heads
    width = heads * block.head_dim if adapters.prefix_length else config.width
    values = {
        "peft_type": "PREFIX_TUNING" if adapters.prefix_length else "PROMPT_TUNING",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "num_virtual_tokens": len(tokens_PE),
        "token_dim": width,
        "num_transformer_submodules": 1,
        "num_attention_heads": heads,
        "num_layers": config.num_layers,
        "inference_mode": True,
    }
    if adapters.prefix_length:
        values |= {"encoder_hidden_size": width, "prefix_projection": False}
    pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
    tensors = [("prompt_embeddings", weights.lazy_tensor(np.ascontiguousarray(tokens_PE, np.float32)))]
    safetensors.write_file(pathlib.Path(folder) / TENSORS, tensors)
    write_json(pathlib.Path(folder) / CONFIG, values)
    return len(tokens_PE)


def _prefix(config: ModelConfig, flat: Mapping[str, Any]) -> np.ndarray:
    """float32[P, L 2 G H]: of each virtual token its key and its value, layer by layer."""
    if config.position.kind != "rotary":
        raise ConfigError(
            f"peft begins a text behind its prefix, at position {config.adapters.prefix_length}: with "
            f"{config.position.kind} positions that is another text than ours, which begins at 0; only a "
            "prefix of a model with rotary positions can be exported"
        )
    if any((config.attention.window, *config.attention.window_pattern)):
        raise ConfigError("peft's prefix goes out of sight where a layer has a window, ours does not")
    keys_LPGH, values_LPGH = (np.asarray(flat[_PREFIX + name]) for name in ("key", "value"))
    places = np.full(keys_LPGH.shape[:2], config.adapters.prefix_length)
    pair = (np.asarray(rotate(keys_LPGH, places, config.position)), values_LPGH)
    return np.stack(pair).transpose(2, 1, 0, 3, 4).reshape(config.adapters.prefix_length, -1)


def _prompt(config: ModelConfig, flat: Mapping[str, Any], begin: int) -> np.ndarray:
    """float32[1 + P, D]: the embedding of what a text begins with, and the prompt's."""
    embedding = config.embedding
    if embedding.width or embedding.scale or embedding.cutoffs or embedding.norm:
        raise ConfigError(
            "peft's prompt is of vectors that a model takes as they are; this one scales, projects or "
            "normalises its embeddings first"
        )
    return np.concatenate([np.asarray(flat[_TABLE])[begin : begin + 1], np.asarray(flat[_PROMPT])])
