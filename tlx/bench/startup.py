"""Time from the start of a process to the end of its first step, with and without the compilation cache."""

import os
import subprocess
import sys
import tempfile
import time

from tlx.bench.attempts import attempt_each
from tlx.bench.shape import BenchShape

# What any program with jax needs before it can do anything.
_REFERENCE = """
import time, jax
jax.numpy.zeros(1).block_until_ready()
print(time.time())
"""

_PROGRAM = """
import time, sys
from tlx.bench.shape import BenchShape
from tlx.bench.step import prepare
prepare({objective!r}, BenchShape(*{shape!r})).call()
print(time.time())
"""


def measure(shape: BenchShape, objectives: tuple[str, ...], seconds: float) -> dict[str, dict[str, float]]:
    """Print and return both times for each objective, beside that of a process which only makes an array with jax.

    The token cache exists already, as on any second start.

    Args:
        shape: Size of the model and the batch.
        objectives: Names in tlx.objectives.
        seconds: Unused: each start is timed once.

    Returns:
        Objective -> "cold" and "warm", seconds without and with the compilation cache, and "jax", those of the
        process beside them; {"error": why} of one that cannot be started.
    """
    del seconds
    with tempfile.TemporaryDirectory(prefix="tlx-bench-") as folder:

        def measure_one(objective: str) -> dict[str, float]:
            program = _PROGRAM.format(objective=objective, shape=tuple(shape))
            cold = _run(program, folder)
            jax_alone = _run(_REFERENCE, folder)
            warm = _run(program, folder)
            print(
                f"  {objective:16} {cold:6.1f} s without the compilation cache, {warm:6.1f} s with it "
                f"({warm / cold:.2f}); an array with jax alone {jax_alone:6.1f} s",
                flush=True,
            )
            return {"cold": cold, "warm": warm, "jax": jax_alone}

        return attempt_each(objectives, measure_one)


def _run(program: str, cache: str) -> float:
    """Return the seconds from starting an interpreter to the time that the program prints.

    Raises:
        subprocess.CalledProcessError: When it fails.
    """
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
