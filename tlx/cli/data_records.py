"""`tlx data show` for tasks: records beside the rows that are made of them."""

from collections.abc import Iterator, Sequence

import numpy as np

from tlx.cli.data_tables import PREFIXES, Example, describe, describe_text, names_of_input, table
from tlx.data.order import row_generator
from tlx.data.records import RecordPipeline, RecordSplit
from tlx.run import RunConfig
from tlx.run.assemble import open_split
from tlx.run.config import get_objective
from tlx.run.spec import spec_of
from tlx.text import Tokenizer

_NUM_ROWS = 1000  # over which rates are measured
_MAX_CHARACTERS = 300  # printed of a column


def show(
    config: RunConfig, tokenizer: Tokenizer, split: RecordSplit, first: int, count: int, positions: int
) -> None:
    """Print rows of a split in the order of the files, then averages over the split.

    Args:
        config: Config of a task.
        tokenizer: Tokenizer of the run.
        split: "train", "validation" or "test".
        first: Index of the first row to print.
        count: Number of rows to print.
        positions: Maximum number of rows of each table of positions.
    """
    pipeline = open_split(config, tokenizer, split)
    assert isinstance(pipeline, RecordPipeline)  # that of a task
    for number in range(first, min(first + count, pipeline.num_windows)):
        item = pipeline.items[number]
        print(f"=== {split}, row {number} of {pipeline.num_windows:,} ===")
        if hasattr(item, "record"):  # a packed row has several
            record = pipeline.records[item.record]
            print(f"record {record.where}")
            for name, value in record.values.items():
                text = str(value)
                print(f"  {name}: {text[:_MAX_CHARACTERS]}{'...' if len(text) > _MAX_CHARACTERS else ''}")
        example = _example(pipeline, config, tokenizer, number)
        print("\n".join(lines_of(example, config, tokenizer, positions)) + "\n")
    print("\n".join(_rates(pipeline, config, tokenizer)))


def lines_of(example: Example, config: RunConfig, tokenizer: Tokenizer, positions: int) -> Iterator[str]:
    """Yield lines that show a row: its texts as the model gets them, its label, its arrays.

    Args:
        example: Arrays of one row, by their names.
        config: Config of the task.
        tokenizer: Tokenizer of the run.
        positions: Maximum number of rows of each table.

    Returns:
        Lines of text.
    """
    if "targets" in example:  # generated answers: as in pretraining
        yield from describe(example, tokenizer, positions)
        return
    labels = getattr(config.objective, "labels", ())
    for name, value in example.items():
        if value.ndim == 0 or name == "label" and value.shape != example["segments"].shape:
            is_class = name == "label" and value.ndim == 0 and labels
            yield f"{name}: {value.tolist()}" + (f" {labels[int(value)]!r}" if is_class else "")
    for row in _token_rows(example):
        for prefix in PREFIXES:
            if f"{prefix}tokens" in row:
                yield from describe_text(row, prefix, tokenizer)
                tokens = row[f"{prefix}tokens"]
                same_shape = {key: value for key, value in row.items() if value.shape == tokens.shape}
                names = names_of_input(same_shape, prefix)
                columns = {name.removeprefix(prefix): same_shape[name] for name in names}
                yield from table(columns, tokenizer, positions)


def _token_rows(example: Example) -> Iterator[Example]:
    """Yield the example itself, or one for each choice where its tokens are [C, T]."""
    dims = max(value.ndim for name, value in example.items() if name.endswith("tokens"))
    if dims == 1:
        yield example
        return
    count = next(len(value) for name, value in example.items() if name.endswith("tokens"))
    for number in range(count):
        yield {name: value[number] for name, value in example.items() if value.ndim == dims}


def _example(pipeline: RecordPipeline, config: RunConfig, tokenizer: Tokenizer, number: int) -> Example:
    """Return the arrays of the row with this index."""
    rng = row_generator(config.seed, "shown", number)
    return get_objective(config).example(rng, pipeline.items[number], spec_of(config, tokenizer))


def _rates(pipeline: RecordPipeline, config: RunConfig, tokenizer: Tokenizer) -> Iterator[str]:
    """Yield lines about the first thousand rows: lengths, padding, labels."""
    count = min(_NUM_ROWS, pipeline.num_windows)
    examples = [_example(pipeline, config, tokenizer, number) for number in range(count)]
    total = f"{pipeline.num_windows:,}, of {len(pipeline.records):,} records"
    yield f"=== the first {count:,} rows of {total} ==="
    for prefix in PREFIXES:
        if f"{prefix}segments" in examples[0]:
            yield from _length_rates(examples, prefix)
    labels = [example["label"] for example in examples if "label" in example]
    names = getattr(config.objective, "labels", ())
    if labels and labels[0].ndim == 0 and names:
        counts = np.bincount(np.array(labels, int), minlength=len(names))
        for label in np.argsort(-counts, kind="stable")[:20]:
            yield f"{'label ' + repr(names[label]):32} {counts[label] / count:.4g}"


def _length_rates(examples: Sequence[Example], prefix: str) -> Iterator[str]:
    """Yield lines about the lengths of one input."""
    real = np.stack([example[f"{prefix}segments"] > 0 for example in examples])
    real = real.reshape(-1, real.shape[-1])
    lengths = real.sum(axis=1)
    name = prefix.replace("_", " ")
    longest = f"{lengths.max()} at most of {real.shape[1]}"
    yield f"{name + 'tokens in a row':32} {lengths.mean():.1f}, {longest}"
    yield f"{name + 'padding, fraction':32} {1 - real.mean():.4g}"
    yield f"{name + 'full rows, fraction':32} {np.mean(lengths == real.shape[1]):.4g}"
