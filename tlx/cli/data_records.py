"""`tlx data show` for tasks: records beside the rows that are made of them."""

from collections.abc import Iterator, Mapping

import numpy as np

from tlx.cli.data_tables import PREFIXES, describe, describe_text, table
from tlx.data.order import row_generator
from tlx.data.records import RecordPipeline
from tlx.run import RunConfig
from tlx.run.assemble import open_split
from tlx.run.config import get_objective
from tlx.run.spec import spec_of
from tlx.text import Tokenizer

_MEASURED = 1000  # rows behind the rates
_LONGEST = 300  # characters shown of a column

Example = Mapping[str, np.ndarray]


def show(config: RunConfig, tokenizer: Tokenizer, split: str, first: int, count: int, places: int) -> None:
    """Prints `count` rows from number `first` on, in the order of the files, and what rows are like."""
    pipeline = open_split(config, tokenizer, split)
    for number in range(first, min(first + count, pipeline.num_windows)):
        item = pipeline.items[number]
        print(f"=== {split}, row {number} of {pipeline.num_windows:,} ===")
        if hasattr(item, "record"):  # of packed rows there are several
            record = pipeline.records[item.record]
            print(f"record {record.where}")
            for name, value in record.values.items():
                text = str(value)
                print(f"  {name}: {text[:_LONGEST]}{'...' if len(text) > _LONGEST else ''}")
        example = _example(pipeline, config, tokenizer, number)
        print("\n".join(lines_of(example, config, tokenizer, places)) + "\n")
    print("\n".join(_rates(pipeline, config, tokenizer)))


def lines_of(example: Example, config: RunConfig, tokenizer: Tokenizer, places: int) -> Iterator[str]:
    """What a row is: its texts as the model gets them, its label, its arrays place by place."""
    if "targets" in example:  # written answers: as in pretraining
        yield from describe(example, tokenizer, places)
        return
    names = getattr(config.objective, "labels", ())
    for name, value in example.items():
        if value.ndim == 0 or name == "label" and value.shape != example["segments"].shape:
            known = names[int(value)] if name == "label" and value.ndim == 0 and names else ""
            yield f"{name}: {value.tolist()}" + (f" {known!r}" if known else "")
    for row in _rows(example):
        for prefix in PREFIXES:
            if f"{prefix}tokens" in row:
                yield from describe_text(row, prefix, tokenizer)
                tokens = row[f"{prefix}tokens"]
                alike = {key: value for key, value in row.items() if value.shape == tokens.shape}
                own = [key for key in alike if key.startswith(prefix)]
                own = [key for key in own if prefix or not key.startswith(PREFIXES[1:])]
                yield from table({key.removeprefix(prefix): alike[key] for key in own}, tokenizer, places)


def _rows(example: Example) -> Iterator[Example]:
    """The rows of tokens of an example, each with the arrays that have its places."""
    dims = max(value.ndim for name, value in example.items() if name.endswith("tokens"))
    if dims == 1:
        yield example
        return
    count = next(len(value) for name, value in example.items() if name.endswith("tokens"))
    for number in range(count):
        yield {name: value[number] for name, value in example.items() if value.ndim == dims}


def _example(pipeline: RecordPipeline, config: RunConfig, tokenizer: Tokenizer, number: int) -> Example:
    rng = row_generator(config.seed, "shown", number)
    return get_objective(config).example(rng, pipeline.items[number], spec_of(config, tokenizer))


def _rates(pipeline: RecordPipeline, config: RunConfig, tokenizer: Tokenizer) -> Iterator[str]:
    """Lines about the first thousand rows: lengths, what fills them, labels."""
    count = min(_MEASURED, pipeline.num_windows)
    made = [_example(pipeline, config, tokenizer, number) for number in range(count)]
    total = f"{pipeline.num_windows:,}, of {len(pipeline.records):,} records"
    yield f"=== the first {count:,} rows of {total} ==="
    for prefix in PREFIXES:
        if f"{prefix}segments" not in made[0]:
            continue
        real = np.stack([example[f"{prefix}segments"] > 0 for example in made])
        real = real.reshape(-1, real.shape[-1])
        name = prefix.replace("_", " ")
        lengths = real.sum(axis=1)
        most = f"{lengths.max()} at most of {real.shape[1]}"
        yield f"{name + 'tokens in a row':32} {lengths.mean():.1f}, {most}"
        yield f"{name + 'padding, share of places':32} {1 - real.mean():.4g}"
        yield f"{name + 'full rows (maybe cut), share':32} {np.mean(lengths == real.shape[1]):.4g}"
    labels = [example["label"] for example in made if "label" in example]
    names = getattr(config.objective, "labels", ())
    if labels and labels[0].ndim == 0 and names:
        counts = np.bincount(np.array(labels, int), minlength=len(names))
        for label in np.argsort(-counts, kind="stable")[:20]:
            yield f"{'label ' + repr(names[label]):32} {counts[label] / count:.4g}"
