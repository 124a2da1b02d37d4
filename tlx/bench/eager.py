"""The train step of a GPT-2-shaped model against the same model in eager PyTorch (transformers).

PyTorch runs in processes of its own, in turns with tlx: in one process the idle threads of both libraries would
take the cores from each other. There are two such processes, one for each wait policy of OpenMP threads (on a
busy machine the default one, spinning, can be a hundred times slower); the faster one counts.
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

from tlx.bench.shape import BenchShape
from tlx.bench.step import prepare
from tlx.bench.timing import in_turns, median_ratio, quickest

STEPS = 5  # in a turn


def measure(shape: BenchShape, objectives: tuple[str, ...], seconds: float) -> dict[str, float]:
    """Print and return tokens/s of both and their ratio; nothing where PyTorch is not installed.

    Args:
        shape: Size of the model and the batch.
        objectives: Unused: both train causal LM.
        seconds: Measuring time of each function.

    Returns:
        "ratio" of tlx to PyTorch and the tokens/s of each; empty where PyTorch is not installed.
    """
    del objectives
    return _measure(shape, seconds, {})


def measure_compiled(shape: BenchShape, objectives: tuple[str, ...], seconds: float) -> dict[str, float]:
    """As measure, with PyTorch's model compiled by torch.compile; the first turn, which compiles, is not counted.

    Args:
        shape: Size of the model and the batch.
        objectives: Unused, as measure's.
        seconds: Measuring time of each function.

    Returns:
        As measure.
    """
    del objectives
    return _measure(shape, seconds, {"compiled": True})


def _measure(shape: BenchShape, seconds: float, how: dict[str, Any]) -> dict[str, float]:
    if report_missing_packages():
        return {}
    step = prepare("clm", shape)
    with contextlib.ExitStack() as stack:
        torch_calls, about = torch_functions(stack, shape._asdict() | how, "step", STEPS)
        times = in_turns({"tlx": lambda: [step.call() for _ in range(STEPS)], **torch_calls}, seconds)
    best = quickest(times, torch_calls)
    speed = {name: STEPS * step.tokens / statistics.median(values) for name, values in times.items()}
    ratio = median_ratio(times[best], times["tlx"])
    print(f"  tlx      {speed['tlx']:10,.0f} tokens/s, {step.num_params:,} parameters")
    print(f"  PyTorch  {speed[best]:10,.0f} tokens/s, {about['parameters']:,} parameters, {about['how']}")
    print(f"  tlx / PyTorch: {ratio:.2f}")
    return {"ratio": ratio, "tlx_tokens_per_s": speed["tlx"], "torch_tokens_per_s": speed[best]}


def report_missing_packages() -> bool:
    """Return whether torch or transformers is missing, and print which."""
    names = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    if names:
        print(f"not measured: {' and '.join(names)} cannot be imported (pip install torch transformers)")
    return bool(names)


def torch_functions(
    stack: contextlib.ExitStack, model: dict[str, Any], work: str, times: int
) -> tuple[dict[str, Callable[[], object]], dict[str, Any]]:
    """Start a PyTorch process for each wait policy of OpenMP threads.

    Args:
        stack: Ends the processes when it is closed.
        model: Description of the model, as torch_model.py reads it.
        work: "step" (a train step), "generate" or "sample".
        times: How often a call does the work.

    Returns:
        Wait policy -> function that does the work and blocks; and the process's description of itself:
        "parameters" and "how".
    """
    spinning, about = stack.enter_context(_torch_process(model, {}, work, times))
    sleeping, _ = stack.enter_context(_torch_process(model, {"OMP_WAIT_POLICY": "passive"}, work, times))
    return {"spinning": spinning, "sleeping": sleeping}, about


@contextlib.contextmanager
def _torch_process(
    model: dict[str, Any], environment: dict[str, str], work: str, times: int
) -> Iterator[tuple[Callable[[], object], dict[str, Any]]]:
    """Yield a function that does the work `times` times in a PyTorch process, and the process's description."""
    device = "cpu" if jax.default_backend() == "cpu" else "cuda"
    script = str(pathlib.Path(__file__).with_name("torch_model.py"))
    process = subprocess.Popen(
        [sys.executable, script, json.dumps(model | {"device": device, "work": work})],
        env=os.environ | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None  # both are pipes
    requests = process.stdin
    answers = process.stdout

    def call() -> None:
        requests.write(f"{times}\n")
        requests.flush()
        if not answers.readline():
            raise RuntimeError(f"PyTorch ended with exit code {process.wait()}")

    try:
        yield call, json.loads(answers.readline() or "{}")
    finally:
        process.kill()
        process.wait()
