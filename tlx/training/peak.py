"""Peak FLOP/s of this machine's matrix units, which the model FLOP/s of MFU are divided by."""

import time
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from tlx.base.chips import chip_of


class Peak(NamedTuple):
    """Peak rate of all devices together."""

    flops_per_s: float
    """FLOP/s."""
    source: str
    """Source of the number: a data sheet or a measurement."""


def matmul_peak(size: int = 1024, repeats: int = 8) -> Peak:
    """Return the data sheet's peak where the device is known, else a measured one.

    Measured is the best of `repeats` float32 products of [size, size] matrices. Simulated CPU devices share
    their host, so that each process counts once.
    """
    device = jax.devices()[0]
    row = chip_of(device.device_kind) if device.platform != "cpu" else None
    if row is not None:
        flops = row.bf16_flops / row.devices * jax.device_count()
        return Peak(flops, f"{device.device_kind} data sheet, bfloat16")
    hosts = jax.process_count() if device.platform == "cpu" else jax.device_count()
    return Peak(_measured(size, repeats) * hosts, f"measured, float32 {size} x {size} products")


def _measured(size: int, repeats: int) -> float:
    """Time a float32 product on one device; FLOP/s of the fastest run."""
    device = jax.local_devices()[0]
    seconds = []
    # A mesh of one device: the caller may be within a mesh of all, which would shard the product.
    with jax.set_mesh(Mesh([device], ("one",))):
        x = jax.device_put(np.ones((size, size), np.float32), device)
        product = jax.jit(lambda x: x @ x)
        product(x).block_until_ready()
        for _ in range(repeats):
            start = time.perf_counter()
            product(x).block_until_ready()
            seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)
