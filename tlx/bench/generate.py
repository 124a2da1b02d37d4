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
from tlx.bench.eager import both_ways, missing
from tlx.bench.sizes import BenchShape, run_config
from tlx.bench.timing import in_turns, median_ratio, quickest
from tlx.decode.generate import generate
from tlx.decode.sampling import Sampling
from tlx.models.transformer import Transformer
from tlx.run.assemble import assemble
from tlx.text.vocabulary import Vocabulary


def measure(shape: BenchShape, objectives: tuple[str, ...], seconds: float) -> dict[str, float]:
    """Prints new tokens/s of both and their ratio; of tlx alone where there is nothing to compare with."""
    del objectives
    ours = _ours(shape)
    new = shape.batch * (shape.length // 2)
    with contextlib.ExitStack() as stack:
        theirs, about = ({}, {}) if missing() else both_ways(stack, shape._asdict(), "generate", 1)
        found = in_turns({"tlx": ours, **theirs}, seconds)
    speed = {name: new / statistics.median(times) for name, times in found.items()}
    each = f"{shape.batch} prompts of {shape.length // 2} tokens and as many new ones"
    print(f"  tlx           {speed['tlx']:10,.0f} new tokens/s, {each}")
    if not theirs:
        return {"tlx_tokens_per_s": speed["tlx"]}
    best = quickest(found, theirs)
    ratio = median_ratio(found[best], found["tlx"])
    print(f"  transformers  {speed[best]:10,.0f} new tokens/s, {about['how']}")
    print(f"  tlx / transformers: {ratio:.2f}")
    return {"ratio": ratio, "tlx_tokens_per_s": speed["tlx"], "torch_tokens_per_s": speed[best]}


def _ours(shape: BenchShape) -> Callable[[], object]:
    """One batch of answers that nothing ends early."""
    run = assemble(run_config("clm", shape))
    with parallel.use(run.mesh, run.rules):
        params = jax.device_put(jax.device_get(run.init().params["model"]))
    model = run.module.model
    lm = Transformer(
        dataclasses.replace(model, execution=dataclasses.replace(model.execution, attention="xla"))
    )
    half = shape.length // 2
    rng = np.random.default_rng(0)
    prompts = rng.integers(0, shape.vocab, (shape.batch, half)).tolist()
    never = Vocabulary(model.vocab_size + 1, eos=model.vocab_size, num_sentinels=0)
    given = {"max_tokens": half, "sampling": Sampling(temperature=0.0), "batch_size": shape.batch}

    def call() -> None:
        found = generate(lm, params, prompts, never, max_length=shape.length, **given)
        assert [len(row) for row in found] == [half] * shape.batch

    return call
