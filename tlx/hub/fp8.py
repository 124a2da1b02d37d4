"""Checkpoints in float8 with scales by block, as DeepSeek V3 was released and transformers' fp8 writes them.

A weight [outputs, inputs] is float8_e4m3fn, and NAME_scale_inv has the factor of each block of 128 x 128
(arXiv:2412.19437, 3.3), or one factor of the whole tensor. They are multiplied when a tensor is read.
"""

import math
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from tlx.base.errors import ConfigError

FLOAT8 = np.dtype(ml_dtypes.float8_e4m3fn)
BLOCK = 128
"""Rows and columns of a block."""

_NAMES = {"gptq": "GPTQ", "awq": "AWQ", "bitsandbytes": "bitsandbytes"}


def check_config(values: Mapping[str, Any], key: str = "quantization_config") -> None:
    """Raise ConfigError unless the key of config.json that describes quantisation names float8 that is read.

    The message names the method: GPTQ, AWQ and others are read by none of tlx's loaders.
    """
    method = values.get("quant_method")
    if method != "fp8":
        name = _NAMES.get(str(method), f"quant_method = {method!r}")
        raise ConfigError(
            f"config.json: {key}: tlx does not read weights quantised by {name}, only fp8 in blocks of "
            f'{BLOCK}; load the model that it was made from with weights="int4" (--weights=int4)'
        )
    block = values.get("weight_block_size")
    if block is not None and list(block) != [BLOCK, BLOCK]:
        raise ConfigError(
            f"config.json: {key}.weight_block_size = {block}: must be [{BLOCK}, {BLOCK}], or null for "
            "one scale of each tensor"
        )


def scale_names(tensors: Mapping[str, np.ndarray], name: str) -> list[str]:
    """Return the names of the scales that belong to a tensor of float8: its own, and that of what it multiplies."""
    if tensors[name].dtype != FLOAT8:
        return []
    # Activations are not quantised here.
    return [_scale_name(name), f"{name.rpartition('.')[0]}.activation_scale"]


def problem(tensors: Mapping[str, np.ndarray], name: str) -> str:
    """Describe what is wrong with the scale of a tensor; "" where nothing is, or it is not float8."""
    tensor = tensors[name]
    if tensor.dtype != FLOAT8:
        return ""
    if _scale_name(name) not in tensors:
        return f"{name} is float8 and has no {_scale_name(name)}"
    shape = tensors[_scale_name(name)].shape
    expected = tuple(-(-size // BLOCK) for size in tensor.shape)
    if math.prod(shape) != 1 and shape != expected:
        return f"{_scale_name(name)} has shape {shape}; blocks of {BLOCK} in {tensor.shape} need {expected}"
    return ""


class FullTensors:
    """Tensors of which those in float8 are multiplied by their scales; the last one is kept for further slices."""

    def __init__(self, tensors: Mapping[str, np.ndarray]):
        self._tensors = tensors
        self._last_name = ""
        self._last = np.empty(0)

    def read(self, name: str, dtype: np.dtype) -> np.ndarray:
        """Return a tensor as it is stored, or one of float8 in `dtype`."""
        tensor = self._tensors[name]
        if tensor.dtype != FLOAT8:
            return tensor
        if name != self._last_name or self._last.dtype != dtype:
            self._last = np.empty(0)
            self._last = _multiplied(tensor, self._tensors[_scale_name(name)], dtype)
            self._last_name = name
        return self._last


def _scale_name(name: str) -> str:
    return f"{name}_scale_inv"


def _multiplied(tensor: np.ndarray, scale: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Return values times scales, rounded once from float32."""
    scale = scale.astype(np.float32)
    if scale.size == 1:
        scale = scale.reshape((1,) * tensor.ndim)
    else:
        scale = np.repeat(scale, BLOCK, axis=1)[:, : tensor.shape[1]]
    values = np.empty(tensor.shape, dtype)
    # By rows of blocks, so that no second copy is as large.
    for row in range(0, tensor.shape[0], BLOCK):
        factors = scale[row // BLOCK] if len(scale) > 1 else scale[0]
        values[row : row + BLOCK] = tensor[row : row + BLOCK].astype(np.float32) * factors
    return values
