"""Greedy generation with a GPT-2-shaped model against transformers.generate on the same machine.

A batch of prompts of half the length is continued by the other half. PyTorch runs in processes of its own, as
in eager.py.
"""

import contextlib
import dataclasses
import statistics
from collections.abc import Callable

import jax
import numpy as np

from tlx import parallel
from tlx.bench.eager import report_missing_packages, torch_functions
from tlx.bench.shape import BenchShape
from tlx.bench.sizes import run_config
from tlx.bench.timing import in_turns, median_ratio, quickest
from tlx.decode.generate import generate
from tlx.decode.sampling import Sampling
from tlx.models.transformer import Transformer
from tlx.run.assemble import assemble
from tlx.text.vocabulary import Vocabulary


def measure(shape: BenchShape, objectives: tuple[str, ...], seconds: float) -> dict[str, float]:
    """Print and return new tokens/s of both and their ratio; of tlx alone where PyTorch is not installed.

    Args:
        shape: Size of the model and the batch.
        objectives: Unused: both are decoders.
        seconds: Measuring time of each function.

    Returns:
        "tlx_tokens_per_s" and, where PyTorch is installed, "torch_tokens_per_s" and their "ratio".
    """
    del objectives
    work = f"{shape.batch} prompts of {shape.length // 2} tokens and as many new ones"
    return beside_transformers(shape, _tlx_generation(shape), "generate", work, seconds)


def beside_transformers(
    shape: BenchShape, tlx_call: Callable[[], object], torch_work: str, work: str, seconds: float
) -> dict[str, float]:
    """Measure a function that continues the first half of `shape.batch` rows, in turns with transformers.generate.

    Args:
        shape: Size of the model and of all rows.
        tlx_call: The function.
        torch_work: Work of torch_model.py that is compared.
        work: Description that is printed.
        seconds: Measuring time of each function.

    Returns:
        As `measure`.
    """
    num_new = shape.batch * (shape.length // 2)
    torch_calls = {}
    about = {}
    with contextlib.ExitStack() as stack:
        if not report_missing_packages():
            torch_calls, about = torch_functions(stack, shape._asdict(), torch_work, 1)
        times = in_turns({"tlx": tlx_call, **torch_calls}, seconds)
    speed = {name: num_new / statistics.median(values) for name, values in times.items()}
    print(f"  tlx           {speed['tlx']:10,.0f} new tokens/s, {work}")
    if not torch_calls:
        return {"tlx_tokens_per_s": speed["tlx"]}
    best = quickest(times, torch_calls)
    ratio = median_ratio(times[best], times["tlx"])
    print(f"  transformers  {speed[best]:10,.0f} new tokens/s, {about['how']}")
    print(f"  tlx / transformers: {ratio:.2f}")
    return {"ratio": ratio, "tlx_tokens_per_s": speed["tlx"], "torch_tokens_per_s": speed[best]}


def _tlx_generation(shape: BenchShape) -> Callable[[], object]:
    """Return a function that continues one batch of random prompts, each to its full length."""
    run = assemble(run_config("clm", shape))
    with parallel.use(run.mesh, run.rules):
        params = jax.device_put(jax.device_get(run.init().params["model"]))
    model = run.module.model
    module = Transformer(
        dataclasses.replace(model, execution=dataclasses.replace(model.execution, attention="xla"))
    )
    half = shape.length // 2
    rng = np.random.default_rng(0)
    prompts = rng.integers(0, shape.vocab, (shape.batch, half)).tolist()
    # Its end of text is outside the model's vocabulary, so that no row ends early.
    vocab = Vocabulary(model.vocab_size + 1, eos=model.vocab_size, num_sentinels=0)

    def call() -> None:
        rows = generate(
            module,
            params,
            prompts,
            vocab,
            max_length=shape.length,
            max_tokens=half,
            sampling=Sampling(temperature=0.0),
            batch_size=shape.batch,
        )
        assert [len(row) for row in rows] == [half] * shape.batch

    return call
