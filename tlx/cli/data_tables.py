"""An example as lines of text: its inputs as the model gets them, its arrays position by position."""

from collections.abc import Iterator, Mapping

import numpy as np

from tlx.text import Tokenizer

PREFIXES = ("", "encoder_", "decoder_")

Example = Mapping[str, np.ndarray]


def describe(example: Example, tokenizer: Tokenizer, positions: int) -> Iterator[str]:
    """Yield lines that show one example: its texts as the model gets them, then its arrays.

    Args:
        example: Arrays of one row, by their names.
        tokenizer: Tokenizer of the run.
        positions: Maximum number of rows in each table.

    Returns:
        Lines of text.
    """
    for prefix in PREFIXES:
        if f"{prefix}tokens" in example:
            yield from describe_text(example, prefix, tokenizer)
    # Of rows with several examples, weights are of the examples.
    counted = example.get("predicted", example["weights"]) > 0
    yield f"targets: {int(counted.sum())}, of text: {tokenizer.decode(example['targets'][counted])!r}"
    for title, columns in _tables(example):
        yield f"{title}:"
        yield from table(columns, tokenizer, positions)


def describe_text(example: Example, prefix: str, tokenizer: Tokenizer) -> Iterator[str]:
    """Yield lines with one input's text, segment by segment.

    Args:
        example: Arrays of one row, by their names.
        prefix: Which input: one of PREFIXES.
        tokenizer: Tokenizer of the run.

    Returns:
        Lines of text.
    """
    tokens = example[f"{prefix}tokens"]
    segments = example[f"{prefix}segments"]
    numbers = [int(number) for number in np.unique(segments) if number]
    yield (
        f"{prefix.rstrip('_') or 'input'}: {len(tokens)} positions, {int((segments == 0).sum())} of padding, "
        f"{len(numbers)} segments"
    )
    for number in numbers:
        text = tokenizer.decode(tokens[segments == number], keep_special=True)
        yield f"  segment {number}, {int((segments == number).sum())} tokens"
        yield from (f"  | {line}" for line in text.split("\n"))


def names_of_input(names: Mapping[str, object], prefix: str) -> list[str]:
    """Return the names with this prefix; for "", those with none of the other prefixes."""
    if prefix:
        return [name for name in names if name.startswith(prefix)]
    return [name for name in names if not name.startswith(PREFIXES[1:])]


def _tables(example: Example) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Yield titles and arrays that share a dimension: one for the targets, one for each input."""
    arrays = dict(example)
    if "target_positions" in arrays:
        names = ("target_positions", "targets", "weights")
        gathered = {name: arrays.pop(name) for name in names}
        gathered["shown"] = example["tokens"][gathered["target_positions"]]
        yield "targets", gathered
    for prefix in PREFIXES:
        tokens = arrays.get(f"{prefix}tokens")
        if tokens is None:
            continue
        same_shape = {name: value for name, value in arrays.items() if value.shape == tokens.shape}
        names = names_of_input(same_shape, prefix)
        if prefix == "decoder_":
            # Its targets have no prefix.
            own = ("targets", "predicted", "weights")
            names += [name for name in own if name in arrays and arrays[name].shape == tokens.shape]
        title = prefix.rstrip("_") or "input"
        yield title, {name.removeprefix(prefix): arrays[name] for name in names}


def table(columns: Mapping[str, np.ndarray], tokenizer: Tokenizer, positions: int) -> Iterator[str]:
    """Yield lines with the first values of arrays of one length, a column each.

    Args:
        columns: Arrays of one dimension, by their names.
        tokenizer: Tokenizer of the run.
        positions: Maximum number of rows.

    Returns:
        Lines of text.
    """
    size = len(next(iter(columns.values())))
    rows = [["index", *columns]]
    for index in range(min(size, positions)):
        cells = [_cell(name, values[index], tokenizer) for name, values in columns.items()]
        rows.append([str(index), *cells])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
    if size > positions:
        yield f"  ... {size - positions} more"


def _cell(name: str, value: np.generic, tokenizer: Tokenizer) -> str:
    if name in ("tokens", "targets", "shown"):
        return f"{int(value)} {tokenizer.piece(int(value))!r}"
    return f"{value:g}"
