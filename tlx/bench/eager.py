"""The train step of a GPT-2-shaped model against the same model in eager PyTorch (transformers).

PyTorch runs in processes of its own, in turns with tlx: in one process the threads of both, waiting for
work, take the cores from each other. There are two of them, one for each way OpenMP threads wait (on a
busy machine the usual one, spinning, can be a hundred times slower); the faster one counts.
"""

import contextlib
import importlib.util
import json
import os
import pathlib
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax

from tlx.bench.sizes import BenchShape
from tlx.bench.step import prepare
from tlx.bench.timing import in_turns, median_ratio, quickest

STEPS = 5  # in a turn


def measure(shape: BenchShape, objectives: tuple[str, ...], seconds: float) -> dict[str, float]:
    """Prints tokens/s of both and their ratio; says so where there is nothing to compare with."""
    del objectives
    if missing():
        return {}
    ours = prepare("clm", shape)
    with contextlib.ExitStack() as stack:
        theirs, about = both_ways(stack, shape._asdict(), "step", STEPS)
        found = in_turns({"tlx": lambda: [ours.call() for _ in range(STEPS)], **theirs}, seconds)
    best = quickest(found, theirs)
    speed = {name: STEPS * ours.tokens / statistics.median(times) for name, times in found.items()}
    ratio = median_ratio(found[best], found["tlx"])
    print(f"  tlx      {speed['tlx']:10,.0f} tokens/s, {ours.num_params:,} parameters")
    print(f"  PyTorch  {speed[best]:10,.0f} tokens/s, {about['parameters']:,} parameters, {about['how']}")
    print(f"  tlx / PyTorch: {ratio:.2f}")
    return {"ratio": ratio, "tlx_tokens_per_s": speed["tlx"], "torch_tokens_per_s": speed[best]}


def missing() -> bool:
    """Whether there is nothing to compare with, which is then said."""
    names = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    if names:
        print(f"not measured: {' and '.join(names)} cannot be imported (pip install torch transformers)")
    return bool(names)


def both_ways(
    stack: contextlib.ExitStack, model: dict[str, Any], work: str, times: int
) -> tuple[dict[str, Callable[[], object]], dict]:
    """({way of waiting: `times` pieces of work in PyTorch}, what it is), as long as `stack` is open."""
    spinning, about = stack.enter_context(_torch(model, {}, work, times))
    sleeping, _ = stack.enter_context(_torch(model, {"OMP_WAIT_POLICY": "passive"}, work, times))
    return {"spinning": spinning, "sleeping": sleeping}, about


@contextlib.contextmanager
def _torch(
    model: dict[str, Any], environment: dict[str, str], work: str, times: int
) -> Iterator[tuple[Callable[[], object], dict]]:
    """(`times` pieces of work of PyTorch in another process, what it is)."""
    device = "cpu" if jax.default_backend() == "cpu" else "cuda"
    script = str(pathlib.Path(__file__).with_name("torch_model.py"))
    process = subprocess.Popen(
        [sys.executable, script, json.dumps(model | {"device": device, "work": work})],
        env=os.environ | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def call() -> None:
        process.stdin.write(f"{times}\n")
        process.stdin.flush()
        if not process.stdout.readline():
            raise RuntimeError(f"PyTorch ended with exit code {process.wait()}")

    try:
        yield call, json.loads(process.stdout.readline() or "{}")
    finally:
        process.kill()
        process.wait()
