"""Time from the start of a process to the end of its first step, with and without the compilation cache."""

import os
import subprocess
import sys
import tempfile
import time

from tlx.bench.sizes import BenchShape

_PROGRAM = """
import time, sys
from tlx.bench.sizes import Shape
from tlx.bench.step import prepare
prepare({objective!r}, Shape(*{shape!r})).call()
print(time.time())
"""


def measure(shape: BenchShape, objectives: tuple[str, ...], seconds: float) -> dict[str, dict[str, float]]:
    """Prints both times for each objective. The token cache is there already, as on any second start."""
    del seconds
    figures = {}
    with tempfile.TemporaryDirectory(prefix="tlx-bench-") as folder:
        for objective in objectives:
            cold, warm = (_start(objective, shape, folder) for _ in range(2))
            figures[objective] = {"cold": cold, "warm": warm}
            print(
                f"  {objective:16} {cold:6.1f} s without the compilation cache, {warm:6.1f} s with it "
                f"({warm / cold:.2f})",
                flush=True,
            )
    return figures


def _start(objective: str, shape: BenchShape, cache: str) -> float:
    """Seconds from starting an interpreter to the end of the first step."""
    program = _PROGRAM.format(objective=objective, shape=tuple(shape))
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": cache,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    start = time.time()
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return float(done.stdout.split()[-1]) - start
