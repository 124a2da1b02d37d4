"""What the matrix units of this machine could do, which model FLOP/s are held against."""

import time
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from tlx.base.chips import chip_of


class Peak(NamedTuple):
    """FLOP/s of all devices together, and where the number is from."""

    flops_per_s: float
    source: str


def matmul_peak(size: int = 1024, repeats: int = 8) -> Peak:
    """From the data sheet where the device is known, else measured (float32 products, best of `repeats`).

    Simulated CPU devices share their machine, so each process counts once.
    """
    device = jax.devices()[0]
    row = chip_of(device.device_kind) if device.platform != "cpu" else None
    if row is not None:
        flops = row.bf16_flops / row.devices * jax.device_count()
        return Peak(flops, f"{device.device_kind} data sheet, bfloat16")
    machines = jax.process_count() if device.platform == "cpu" else jax.device_count()
    return Peak(_measured(size, repeats) * machines, f"measured, float32 {size} x {size} products")


def _measured(size: int, repeats: int) -> float:
    device = jax.local_devices()[0]
    seconds = []
    with jax.set_mesh(Mesh([device], ("one",))):  # whatever mesh the caller is in
        x = jax.device_put(np.ones((size, size), np.float32), device)
        product = jax.jit(lambda x: x @ x)
        product(x).block_until_ready()
        for _ in range(repeats):
            start = time.perf_counter()
            product(x).block_until_ready()
            seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)
