"""The size of a model, printed before its parameters are read."""

import sys
from collections.abc import Mapping
from typing import Any

import jax

from tlx.base import tree
from tlx.base.memory import size_text
from tlx.base.platform import platform
from tlx.base.tree import array_bytes
from tlx.nn.config import compute_dtype
from tlx.nn.weight_formats import ArrayFormat, quantized_shape

# The first NVIDIA GPUs that compute in bfloat16 (Ampere) have compute capability 8.0.
_FIRST_WITH_BFLOAT16 = 8.0


def sizes_by_type(leaves: Mapping[str, Any], formats: Mapping[str, ArrayFormat]) -> dict[str, int]:
    """Return the bytes of parameters by how they are stored, the largest first.

    Args:
        leaves: {path: anything with shape and dtype}.
        formats: {path: format} of those that are quantised.

    Returns:
        {"int4", "bfloat16", ...: bytes, scales included}.
    """
    sizes: dict[str, int] = {}
    for path, leaf in leaves.items():
        if path in formats:
            name = formats[path].qtype
            size = tree.num_bytes(quantized_shape(leaf.shape, formats[path]))
        else:
            name = str(leaf.dtype)
            size = array_bytes(leaf.shape, leaf.dtype)
        sizes[name] = sizes.get(name, 0) + size
    return dict(sorted(sizes.items(), key=lambda item: -item[1]))


def size_line(num_params: int, sizes: Mapping[str, int], dtype: str) -> str:
    """Say how large a model is and in what it computes.

    Args:
        num_params: Number of scalars.
        sizes: Bytes by how they are stored.
        dtype: model.dtype.

    Returns:
        "8,030,261,248 parameters, 4.98 GB (int4 3.66 GB, int8 1.05 GB, ...), computed in bfloat16".
    """
    parts = ", ".join(f"{name} {size_text(size)}" for name, size in sizes.items())
    total = size_text(sum(sizes.values()))
    stored = f"{total} ({parts})" if len(sizes) > 1 else f"{total} in {next(iter(sizes), 'none')}"
    return f"{num_params:,} parameters, {stored}, computed in {compute_dtype(dtype)}{_emulation_note(dtype)}"


def print_size(folder: str, line: str) -> None:
    """Print the size of the model of a folder."""
    print(f"{folder}: {line}", file=sys.stderr)


def _emulation_note(dtype: str) -> str:
    """Say where the first device has no bfloat16, and how it computes then; "" elsewhere."""
    if platform() != "gpu" or str(compute_dtype(dtype)) != "bfloat16":
        return ""
    device = jax.devices()[0]
    capability = getattr(device, "compute_capability", None)
    if capability is None or float(capability) >= _FIRST_WITH_BFLOAT16:
        return ""
    return f", which {device.device_kind} does not have: products are computed in float32"
