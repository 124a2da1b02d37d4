"""The data pipeline: tokens of text per second of one core, for each objective."""

import time

from tlx.bench.sizes import BenchShape, style
from tlx.data.pipeline import Pipeline
from tlx.data.prepare import prepare_tokenizer
from tlx.run import base_config
from tlx.run.assemble import open_pipeline
from tlx.run.checks import resolve

LENGTH = 512
BATCH = 64


def measure(shape: BenchShape, objectives: tuple[str, ...], seconds: float) -> dict[str, float]:
    """Prints, for each objective, batches made in this thread alone, by its own processor time.

    The tokens counted are those of the text that a row takes up (its window less what it shares with the
    next one), whatever the objective adds or takes away. Rows of 512, 64 in a batch, 4,096-piece BPE.
    """
    del shape
    figures = {}
    for objective in objectives:
        pipeline = pipeline_of(objective, LENGTH)
        pipeline.batch(0)
        start = time.process_time()
        count = 0
        while (spent := time.process_time() - start) < seconds / 2:
            count += 1
            pipeline.batch(count)
        rate = count * BATCH * (pipeline.reads.length - pipeline.reads.overlap) / spent
        figures[objective] = rate
        print(f"  {objective:16} {rate / 1e6:6.2f}M tokens/s of one core", flush=True)
    return figures


def pipeline_of(objective: str, length: int) -> Pipeline:
    """Batches of an objective with its default settings, from the standard library in 4,096 pieces."""
    config = base_config(objective)
    config.data.sequence_length = length
    config.train.batch_size = BATCH
    style(config)
    resolved = resolve(config)
    tokenizer = prepare_tokenizer(resolved.tokenizer, resolved.data)
    return open_pipeline(resolved, tokenizer, "train")
