"""The data pipeline: tokens of text per second of one core, for each objective."""

import time

from tlx.bench.shape import BenchShape
from tlx.bench.sizes import set_usual_blocks
from tlx.data.pipeline import Pipeline
from tlx.data.prepare import prepare_tokenizer
from tlx.run import base_config
from tlx.run.assemble import open_pipeline
from tlx.run.checks import resolve

LENGTH = 512
BATCH = 64


def measure(shape: BenchShape, objectives: tuple[str, ...], seconds: float) -> dict[str, float]:
    """Print and return the speed of the pipeline of each objective, by this thread's own processor time.

    Tokens are those of the text that a row advances by (its window without the overlap with the next one),
    whatever the objective adds or removes. Rows of 512 tokens, 64 in a batch, a BPE of 4,096 pieces.

    Args:
        shape: Unused: the pipeline's own sizes are fixed.
        objectives: Names in tlx.objectives.
        seconds: Measuring time; half of it goes to each objective.

    Returns:
        Objective -> tokens/s of one core.
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
        tokens_per_s = count * BATCH * (pipeline.reads.length - pipeline.reads.overlap) / spent
        figures[objective] = tokens_per_s
        print(f"  {objective:16} {tokens_per_s / 1e6:6.2f}M tokens/s of one core", flush=True)
    return figures


def pipeline_of(objective: str, length: int) -> Pipeline:
    """Return the default pipeline of an objective, on the standard library in 4,096 pieces."""
    config = base_config(objective)
    config.data.sequence_length = length
    config.train.batch_size = BATCH
    set_usual_blocks(config)
    resolved = resolve(config, allow=None)
    tokenizer = prepare_tokenizer(resolved.tokenizer, resolved.data)
    return open_pipeline(resolved, tokenizer, "train")
