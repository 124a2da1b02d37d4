"""Timing on a machine whose speed drifts: functions are called in turns, and medians are compared."""

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import jax
import jax.numpy as jnp


def in_turns(
    functions: Mapping[str, Callable[[], object]],
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Return seconds per call of each function, one value a turn; the functions are called alternately.

    The first call of each (which compiles) is not counted. Continues until every function has had `seconds` on
    average, for three turns at least.

    Args:
        functions: By name; each blocks on its own result.
        seconds: Measuring time of each function.
        clock: Its seconds are measured: those of the wall, or time.process_time for work of one thread.
    """
    for function in functions.values():
        function()
    times: dict[str, list[float]] = {name: [] for name in functions}
    stop = clock() + seconds * len(functions)
    while clock() < stop or len(next(iter(times.values()))) < 3:
        for name, function in functions.items():
            start = clock()
            function()
            times[name].append(clock() - start)
    return times


def median_ratio(over: list[float], under: list[float]) -> float:
    """Return the median of over / under, turn by turn."""
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


def matmul(size: int = 0, repeats: int = 4) -> tuple[Callable[[], object], int]:
    """Return a chain of square matrix products in the dtype that models compute in, and its FLOPs.

    The dtype is float32 on CPU and bfloat16 elsewhere. The best turn of it is the matmul peak.
    """
    on_cpu = jax.default_backend() == "cpu"
    size = size or (1024 if on_cpu else 8192)
    matrix = jnp.full((size, size), 1 / size, jnp.float32 if on_cpu else jnp.bfloat16)

    @jax.jit
    def chain(x: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, repeats, lambda _, y: y @ matrix, x)

    return lambda: chain(matrix).block_until_ready(), 2 * size**3 * repeats


def quickest(times: Mapping[str, Sequence[float]], names: Iterable[str]) -> str:
    """Return the one of `names` with the smallest median time."""
    return min(names, key=lambda name: statistics.median(times[name]))
