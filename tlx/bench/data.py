"""The data pipeline: tokens of text per second of one core, for each objective, beside plain copies."""

import itertools
import statistics
import time
from collections.abc import Callable

import numpy as np

from tlx.bench.attempts import attempt_each
from tlx.bench.shape import BenchShape
from tlx.bench.sizes import set_usual_blocks
from tlx.bench.timing import in_turns, median_ratio
from tlx.data.pipeline import Pipeline
from tlx.data.prepare import prepare_tokenizer
from tlx.run import base_config
from tlx.run.assemble import open_pipeline
from tlx.run.checks import resolve

LENGTH = 512
BATCH = 64
# Rows that take longer than an objective's own, as published models have them: values of its config.
SLOWER = {"plm": {"plm:pairs": {"pairs": True, "bi_data": True}}}
# Tokens that are copied from: more than a processor's cache holds.
COPIED_FROM = 1 << 25


def measure(
    shape: BenchShape, objectives: tuple[str, ...], seconds: float
) -> dict[str, dict[str, float] | float]:
    """Print and return the speed of the pipeline of each objective, by this thread's own processor time.

    Tokens are those of the text that a row advances by (its window without the overlap with the next one),
    whatever the objective adds or removes. Rows of 512 tokens, 64 in a batch, a BPE of 4,096 pieces. In turns with
    each batch, as many rows are copied from an array to a batch: the least that any pipeline does.

    Args:
        shape: Unused: the pipeline's own sizes are fixed.
        objectives: Names in tlx.objectives; of "plm" the rows of XLNet's config are measured too, as "plm:pairs".
        seconds: Measuring time; half of it goes to each objective and to its copies.

    Returns:
        Objective -> tokens/s of one core, or {"error": why}; and "plain_copy": objective -> tokens/s of the copies
        in the same turns.
    """
    del shape
    copied: dict[str, float] = {}
    copy = _plain_copy()

    def measure_one(objective: str) -> float:
        pipeline = pipeline_of(objective, LENGTH)
        numbers = itertools.count()
        functions = {"pipeline": lambda: pipeline.batch(next(numbers)), "copy": copy}
        times = in_turns(functions, seconds / 2, time.process_time)
        window = pipeline.reads.length - pipeline.reads.overlap
        tokens_per_s = BATCH * window / statistics.median(times["pipeline"])
        copied[objective] = BATCH * LENGTH / statistics.median(times["copy"])
        # In time a token, for both.
        ratio = median_ratio(times["copy"], times["pipeline"]) * window / LENGTH
        print(
            f"  {objective:16} {tokens_per_s / 1e6:6.2f}M tokens/s of one core; copied rows "
            f"{copied[objective] / 1e6:,.0f}M: {ratio:.4f} of it",
            flush=True,
        )
        return tokens_per_s

    names = [name for objective in objectives for name in (objective, *SLOWER.get(objective, {}))]
    return {**attempt_each(names, measure_one), "plain_copy": copied}


def _plain_copy() -> Callable[[], np.ndarray]:
    """Return a function that copies a batch of rows from places of an array that are drawn."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 4096, COPIED_FROM, np.uint16)

    def copy() -> np.ndarray:
        starts = rng.integers(0, len(tokens) - LENGTH, BATCH)
        return np.stack([tokens[start : start + LENGTH] for start in starts]).astype(np.int32)

    return copy


def pipeline_of(objective: str, length: int) -> Pipeline:
    """Return the pipeline of an objective, or of a name of SLOWER, on the standard library in 4,096 pieces."""
    config = base_config(objective.split(":")[0])
    for name, value in SLOWER.get(config.objective.name, {}).get(objective, {}).items():
        config.objective[name] = value
    config.data.sequence_length = length
    config.train.batch_size = BATCH
    set_usual_blocks(config)
    resolved = resolve(config, allow=None)
    tokenizer = prepare_tokenizer(resolved.tokenizer, resolved.data)
    return open_pipeline(resolved, tokenizer, "train")
