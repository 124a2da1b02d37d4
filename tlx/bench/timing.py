"""Timing on a machine whose speed drifts: in turns, and medians."""

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import jax
import jax.numpy as jnp


def in_turns(functions: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, list[float]]:
    """Seconds per call of each function, one value a turn, the functions called one after the other.

    Each function waits for its own result. The first call of each (which compiles) is not counted. Goes
    on until every function has had `seconds` on average, for three turns at least.
    """
    for function in functions.values():
        function()
    found: dict[str, list[float]] = {name: [] for name in functions}
    stop = time.perf_counter() + seconds * len(functions)
    while time.perf_counter() < stop or len(next(iter(found.values()))) < 3:
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            found[name].append(time.perf_counter() - start)
    return found


def median_ratio(over: list[float], under: list[float]) -> float:
    """Median of over / under, turn by turn."""
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


def matmul(size: int = 0, repeats: int = 4) -> tuple[Callable[[], object], int]:
    """(a chain of square matrix products in the dtype models compute in, its FLOPs).

    The dtype is float32 on CPU and bfloat16 elsewhere. The best turn of it is the matmul peak.
    """
    on_cpu = jax.default_backend() == "cpu"
    size = size or (1024 if on_cpu else 8192)
    matrix = jnp.full((size, size), 1 / size, jnp.float32 if on_cpu else jnp.bfloat16)

    @jax.jit
    def chain(x: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, repeats, lambda _, y: y @ matrix, x)

    return lambda: chain(matrix).block_until_ready(), 2 * size**3 * repeats


def quickest(found: Mapping[str, Sequence[float]], names: Iterable[str]) -> str:
    """Of these the one with the smallest median."""
    return min(names, key=lambda name: statistics.median(found[name]))
