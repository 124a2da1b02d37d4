"""An example as lines of text: its inputs as the model gets them, its arrays place by place."""

from collections.abc import Iterator, Mapping

import numpy as np

from tlx.text import Tokenizer

PREFIXES = ("", "encoder_", "decoder_")

Example = Mapping[str, np.ndarray]


def describe(example: Example, tokenizer: Tokenizer, places: int) -> Iterator[str]:
    """Lines that show one example: its texts as the model gets them, then its arrays place by place."""
    for prefix in PREFIXES:
        if f"{prefix}tokens" in example:
            yield from describe_text(example, prefix, tokenizer)
    counted = example["weights"] > 0
    yield f"targets: {int(counted.sum())}, of text: {tokenizer.decode(example['targets'][counted])!r}"
    for title, columns in _tables(example):
        yield f"{title}:"
        yield from table(columns, tokenizer, places)


def describe_text(example: Example, prefix: str, tokenizer: Tokenizer) -> Iterator[str]:
    """Lines with one input's text, segment by segment."""
    tokens = example[f"{prefix}tokens"]
    segments = example[f"{prefix}segments"]
    numbers = [int(number) for number in np.unique(segments) if number]
    yield (
        f"{prefix.rstrip('_') or 'input'}: {len(tokens)} places, {int((segments == 0).sum())} of padding, "
        f"{len(numbers)} segments"
    )
    for number in numbers:
        text = tokenizer.decode(tokens[segments == number], keep_special=True)
        yield f"  segment {number}, {int((segments == number).sum())} tokens"
        yield from (f"  | {line}" for line in text.split("\n"))


def _tables(example: Example) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Arrays that belong together: one for each place of an input, one for each target."""
    left = dict(example)
    if "target_positions" in left:
        names = ("target_positions", "targets", "weights")
        gathered = {name: left.pop(name) for name in names}
        gathered["shown"] = example["tokens"][gathered["target_positions"]]
        yield "targets", gathered
    for prefix in PREFIXES:
        tokens = left.get(f"{prefix}tokens")
        if tokens is None:
            continue
        own = [name for name in left if name.startswith(prefix) and left[name].shape == tokens.shape]
        own = [name for name in own if prefix or not name.startswith(PREFIXES[1:])]
        if prefix == "decoder_":
            own += [name for name in ("targets", "weights") if name in left]
        yield f"{prefix.rstrip('_') or 'input'}", {name.removeprefix(prefix): left[name] for name in own}


def table(columns: Mapping[str, np.ndarray], tokenizer: Tokenizer, places: int) -> Iterator[str]:
    """Lines with the first places of arrays that belong together, a column each."""
    size = len(next(iter(columns.values())))
    rows = [["place", *columns]]
    for place in range(min(size, places)):
        rows.append([str(place), *(_cell(name, columns[name][place], tokenizer) for name in columns)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
    if size > places:
        yield f"  ... {size - places} more"


def _cell(name: str, value: np.generic, tokenizer: Tokenizer) -> str:
    if name in ("tokens", "targets", "shown"):
        return f"{int(value)} {tokenizer.piece(int(value))!r}"
    return f"{value:g}"
