"""Time from the start of a process to the end of its first step, with and without the compilation cache."""

import os
import subprocess
import sys
import tempfile
import time

from tlx.bench.shape import BenchShape

_PROGRAM = """
import time, sys
from tlx.bench.shape import BenchShape
from tlx.bench.step import prepare
prepare({objective!r}, BenchShape(*{shape!r})).call()
print(time.time())
"""


def measure(shape: BenchShape, objectives: tuple[str, ...], seconds: float) -> dict[str, dict[str, float]]:
    """Print and return both times for each objective.

    The token cache exists already, as on any second start.

    Args:
        shape: Size of the model and the batch.
        objectives: Names in tlx.objectives.
        seconds: Unused: each start is timed once.

    Returns:
        Objective -> "cold" and "warm", seconds without and with the compilation cache.

    Raises:
        subprocess.CalledProcessError: When a started process fails.
    """
    del seconds
    figures = {}
    with tempfile.TemporaryDirectory(prefix="tlx-bench-") as folder:
        for objective in objectives:
            cold = _start(objective, shape, folder)
            warm = _start(objective, shape, folder)
            figures[objective] = {"cold": cold, "warm": warm}
            print(
                f"  {objective:16} {cold:6.1f} s without the compilation cache, {warm:6.1f} s with it "
                f"({warm / cold:.2f})",
                flush=True,
            )
    return figures


def _start(objective: str, shape: BenchShape, cache: str) -> float:
    """Return the seconds from starting an interpreter to the end of the first step."""
    program = _PROGRAM.format(objective=objective, shape=tuple(shape))
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": cache,
        # Programs that compile within a second are cached too.
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    start = time.time()
    process = subprocess.run(
        [sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return float(process.stdout.split()[-1]) - start
