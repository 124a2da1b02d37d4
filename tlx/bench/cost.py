"""What an objective costs and how much it learns from: FLOPs and targets for each token of text. Exact."""

from typing import NamedTuple

import numpy as np

from tlx.bench.data import pipeline_of
from tlx.bench.sizes import BenchShape, run_config
from tlx.models.flops_traced import matmul_flops
from tlx.objectives import TABLE as OBJECTIVES
from tlx.objectives.shared.base import ObjectiveSpec
from tlx.run.spec import abstract_batch, make_module
from tlx.text.vocabulary import Vocabulary
from tlx.training.step_flops import trace_forward

_EXAMPLES = 512  # over which targets are counted


class Cost(NamedTuple):
    """Of one objective at one size."""

    text: int  # tokens of new text in a row: its window less what it shares with the next one
    targets: float  # places with a loss for each token that goes in (the encoder's, where there are two)
    flops: float  # of a forward pass for each token of new text


def measure(shape: BenchShape, objectives: tuple[str, ...], seconds: float) -> dict[str, dict[str, float]]:
    """Prints one line for each objective. `times_clm`: FLOPs over those of causal language modelling.

    Every model has the same width, layers (in each half of an encoder-decoder) and vocabulary. FLOPs are
    the matrix products of the traced forward pass, generators, heads and second streams included; targets
    those of real examples, of the generator where tokens are replaced.
    """
    del seconds
    print(f"{shape}; FLOPs are those of a forward pass")
    print(f"  {'':16} {'text a row':>10} {'targets per token':>18} {'FLOPs per token':>16} {'of clm':>8}")
    figures = {}
    base = cost("clm", shape).flops
    for objective in objectives:
        found = cost(objective, shape)
        figures[objective] = found._asdict() | {"times_clm": found.flops / base}
        print(
            f"  {objective:16} {found.text:10,} {found.targets:18.1%} {found.flops:16,.0f} "
            f"{found.flops / base:8.2f}",
            flush=True,
        )
    return figures


def cost(objective: str, shape: BenchShape) -> Cost:
    """Counts one objective with its default settings."""
    config = run_config(objective, shape)
    vocab = Vocabulary(shape.vocab)
    tables = np.ones(vocab.size, bool), np.ones(vocab.size, bool)
    spec = ObjectiveSpec(config.objective, shape.length, vocab, *tables, config.data.languages)
    batch = abstract_batch(config, spec)
    module = make_module(config, vocab)
    flops = matmul_flops(lambda: trace_forward(module, batch))
    reads = OBJECTIVES.load(objective).window_spec(spec)
    text = reads.length - reads.overlap
    return Cost(text, _targets(objective, shape), flops / shape.batch / text)


def _targets(objective: str, shape: BenchShape) -> float:
    pipeline = pipeline_of(objective, shape.length)
    count = -(-_EXAMPLES // pipeline.batch_size)
    batches = [pipeline.batch(k) for k in range(count)]
    targets = sum(np.count_nonzero(batch["weights"]) for batch in batches)
    places = [name for name in batches[0] if name.rpartition(".")[2] in ("segments", "encoder_segments")]
    return targets / sum(np.count_nonzero(batch[name]) for batch in batches for name in places)
