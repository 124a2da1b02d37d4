"""The cost and the learning signal of an objective: exact FLOPs and targets per token of text."""

from typing import NamedTuple

import numpy as np

from tlx.bench.attempts import attempt_each
from tlx.bench.data import pipeline_of
from tlx.bench.shape import BenchShape
from tlx.bench.sizes import run_config
from tlx.models.flops_traced import matmul_flops
from tlx.objectives import TABLE as OBJECTIVES
from tlx.objectives.shared.base import ObjectiveSpec
from tlx.run.spec import abstract_batch, make_module
from tlx.text.vocabulary import Vocabulary
from tlx.training.step_flops import trace_forward

_EXAMPLES = 512  # over which targets are counted


class Cost(NamedTuple):
    """Cost of one objective at one size."""

    text: int
    """Tokens of new text in a row: its window without the overlap with the next one."""
    targets: float
    """Positions with a loss per input token (of the encoder, where there are two inputs)."""
    flops: float
    """FLOPs of a forward pass per token of new text."""


def measure(shape: BenchShape, objectives: tuple[str, ...], seconds: float) -> dict[str, dict[str, float]]:
    """Print one line for each objective and return its figures.

    Every model has the same width, layers (of encoder and decoder each in an encoder-decoder) and
    vocabulary. FLOPs are the matrix products of the traced forward pass, generators, heads and second streams
    included. Targets are counted on real examples; for replaced token detection, those of the generator.

    Args:
        shape: Size of the model and the batch.
        objectives: Names in tlx.objectives.
        seconds: Unused: nothing is timed.

    Returns:
        Objective -> the fields of its Cost, and "times_clm": its FLOPs relative to causal LM;
        {"error": why} of one that cannot be measured.
    """
    del seconds
    print(f"{shape}; FLOPs are those of a forward pass")
    print(f"  {'':16} {'text a row':>10} {'targets per token':>18} {'FLOPs per token':>16} {'of clm':>8}")
    clm_flops = cost("clm", shape).flops

    def measure_one(objective: str) -> dict[str, float]:
        costs = cost(objective, shape)
        print(
            f"  {objective:16} {costs.text:10,} {costs.targets:18.1%} {costs.flops:16,.0f} "
            f"{costs.flops / clm_flops:8.2f}",
            flush=True,
        )
        return costs._asdict() | {"times_clm": costs.flops / clm_flops}

    return attempt_each(objectives, measure_one)


def cost(objective: str, shape: BenchShape) -> Cost:
    """Return the cost of one objective with its default settings."""
    config = run_config(objective, shape)
    vocab = Vocabulary(shape.vocab)
    spec = ObjectiveSpec(
        config.objective,
        shape.length,
        vocab,
        # Shapes do not depend on the values of these tables.
        starts_word=np.ones(vocab.size, bool),
        ends_sentence=np.ones(vocab.size, bool),
        languages=config.data.languages,
    )
    batch = abstract_batch(config, spec)
    module = make_module(config, vocab)
    flops = matmul_flops(lambda: trace_forward(module, batch))
    window = OBJECTIVES.load(objective, allow=None).window_spec(spec)
    text = window.length - window.overlap
    return Cost(text, _targets_per_token(objective, shape), flops / shape.batch / text)


def _targets_per_token(objective: str, shape: BenchShape) -> float:
    """Return the number of targets per input token that is no padding."""
    pipeline = pipeline_of(objective, shape.length)
    count = -(-_EXAMPLES // pipeline.batch_size)
    batches = [pipeline.batch(k) for k in range(count)]
    targets = sum(np.count_nonzero(batch["weights"]) for batch in batches)
    segments = [name for name in batches[0] if name.rpartition(".")[2] in ("segments", "encoder_segments")]
    return targets / sum(np.count_nonzero(batch[name]) for batch in batches for name in segments)
