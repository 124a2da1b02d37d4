"""`tlx data show` for objectives: what examples contain on average, and how fast they are made."""

import time
from collections.abc import Iterator

import numpy as np

from tlx.cli.data_tables import PREFIXES, Example
from tlx.data import Pipeline
from tlx.run import RunConfig
from tlx.text import Vocabulary

_NUM_EXAMPLES = 1000  # over which rates are measured


def lines(pipeline: Pipeline, config: RunConfig, vocab: Vocabulary) -> Iterator[str]:
    """Yield lines with the averages over a thousand examples and the speed of the pipeline.

    Args:
        pipeline: Batches of the objective.
        config: Config of the run.
        vocab: Vocabulary of the run's tokenizer.

    Returns:
        Lines of text.
    """
    numbers = range(-(-_NUM_EXAMPLES // pipeline.batch_size))
    pipeline.batch(0)  # imports and page faults are not the pipeline's speed
    start = time.process_time()
    batches = [pipeline.batch(number) for number in numbers]
    seconds = time.process_time() - start
    joined = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    count = len(joined["weights"])
    yield f"=== rates, over {count} examples of {config.objective.name} ==="
    for name, value in measure(joined, vocab).items():
        yield f"{name:32} {value:.4g}"
    num_tokens = count * pipeline.reads.length
    yield f"{'raw tokens/s, one core':32} {num_tokens / max(seconds, 1e-9):,.0f}"
    yield (
        f"{pipeline.num_tokens:,} tokens in {pipeline.num_windows:,} windows of {pipeline.reads.length} "
        f"({pipeline.reads.layout}), {pipeline.steps_per_epoch:,} batches of {pipeline.batch_size} an epoch"
    )


def measure(batch: Example, vocab: Vocabulary) -> dict[str, float]:
    """Return averages over the rows of a batch, by a title for each."""
    rates: dict[str, float] = {}
    for prefix in PREFIXES:
        if f"{prefix}tokens" not in batch:
            continue
        tokens = batch[f"{prefix}tokens"]
        segments = batch[f"{prefix}segments"]
        real = segments > 0  # no padding
        name = prefix.replace("_", " ")
        rates[f"{name}padding, fraction"] = float(1 - real.mean())
        rates[f"{name}segments per row"] = float(segments.max(axis=1).mean())
        first_sentinel = vocab.size - vocab.added - vocab.num_sentinels
        rates[f"{name}masks per token"] = float((tokens[real] == vocab.mask).mean())
        rates[f"{name}sentinels per row"] = float(((tokens >= first_sentinel) & real).sum(axis=1).mean())
    counted = batch["weights"] > 0
    rates["targets per row"] = float(counted.sum(axis=1).mean())
    rates["targets per position"] = float(counted.mean())
    if "target_positions" in batch:
        shown = np.take_along_axis(batch["tokens"], batch["target_positions"], axis=1)[counted]
        masked = shown == vocab.mask
        unchanged = shown == batch["targets"][counted]
        rates["targets per token"] = float(counted.sum() / max((batch["segments"] > 0).sum(), 1))
        rates["targets shown as mask"] = float(masked.mean())
        rates["targets shown unchanged"] = float(unchanged.mean())
        rates["targets shown as another"] = float((~masked & ~unchanged).mean())
    return rates
