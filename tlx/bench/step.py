"""The train step: tokens/s, model FLOP/s and MFU (by the matmul peak), for each kind of model."""

import statistics
from collections.abc import Callable
from typing import NamedTuple

import jax

from tlx import parallel
from tlx.base import tree
from tlx.bench.attempts import attempt_each
from tlx.bench.shape import BenchShape
from tlx.bench.sizes import run_config
from tlx.bench.timing import in_turns, matmul, median_ratio
from tlx.run.assemble import Run, assemble
from tlx.run.spec import abstract_batch
from tlx.training.step_flops import training_flops


class Step(NamedTuple):
    """A compiled train step on one batch that stays on the devices."""

    call: Callable[[], object]
    """Runs one step and blocks until it is done."""
    tokens: int
    """Positions of the batch that go through the model."""
    flops: int
    """Model FLOPs: three times the matrix products of the forward pass."""
    num_params: int
    """Number of parameters."""


def measure(shape: BenchShape, objectives: tuple[str, ...], seconds: float) -> dict[str, dict[str, float]]:
    """Print one line for each objective and return its figures.

    The last column is FLOP/s relative to the step of causal LM, measured in turns with it.

    Args:
        shape: Size of the model and the batch.
        objectives: Names in tlx.objectives.
        seconds: Measuring time of each function.

    Returns:
        Objective -> its figures: tokens and FLOPs per second, the matmul peak, MFU ("peak_share") and the
        ratio to causal LM; {"error": why} of one that cannot be measured.
    """
    print(f"{shape} on {jax.device_count()} x {jax.devices()[0].device_kind}; AdamW; peak: matrix products")
    titles = f"{'parameters':>12} {'tokens/s':>10} {'TFLOP/s':>8} {'of peak':>8} {'ms/step':>9} {'of clm':>7}"
    print(f"  {'':16} {titles}")
    product, product_flops = matmul()
    clm = prepare("clm", shape)

    def measure_one(objective: str) -> dict[str, float]:
        step = clm if objective == "clm" else prepare(objective, shape)
        times = in_turns({"step": step.call, "clm": clm.call, "peak": product}, seconds)
        per_step = statistics.median(times["step"])
        peak = product_flops / min(times["peak"]) * num_machines()
        mfu = step.flops / per_step / peak
        figures = {
            "tokens_per_s": step.tokens / per_step,
            "flops_per_s": step.flops / per_step,
            "peak_flops_per_s": peak,
            "peak_share": mfu,
            "over_clm": median_ratio(times["clm"], times["step"]) * step.flops / clm.flops,
        }
        print(
            f"  {objective:16} {step.num_params:12,} {step.tokens / per_step:10,.0f} "
            f"{step.flops / per_step / 1e12:8.3f} {mfu:8.1%} {1e3 * per_step:9.1f} "
            f"{figures['over_clm']:7.2f}",
            flush=True,
        )
        return figures

    return attempt_each(objectives, measure_one)


def prepare(objective: str, shape: BenchShape) -> Step:
    """Return the step that `tlx train` would run, with its first batch."""
    return prepare_run(assemble(run_config(objective, shape)))


def prepare_run(run: Run) -> Step:
    """Return the step of an assembled run, with its first batch."""
    batch = abstract_batch(run.config, run.spec)
    return Step(
        call=_step_function(run),
        tokens=sum(leaf.size for name, leaf in batch.items() if name.endswith("tokens")),
        flops=training_flops(run.module, batch),
        num_params=tree.num_params(run.state.params),
    )


def num_machines() -> int:
    """Return the number of devices that compute at the same time; simulated CPU devices share one machine."""
    return 1 if jax.default_backend() == "cpu" else jax.device_count()


def _step_function(run: Run) -> Callable[[], object]:
    """Return a function that runs one step on the run's first batch and blocks."""
    with parallel.use(run.mesh, run.rules):
        state = run.init()
        batch = run.to_devices(run.train.batch(0, run.local_row_indices))

    def call() -> None:
        # The step donates its state: the next call needs the new one.
        nonlocal state
        with parallel.use(run.mesh, run.rules):
            state, metrics = run.step(state, batch)
            jax.block_until_ready((state, metrics))

    return call
