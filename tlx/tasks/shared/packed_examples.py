"""Several short examples in one row of training, so that little of it is padding.

Each example is as it would be alone (inputs.py): positions begin anew, no example sees another, and `place`,
`label` and `weights` have a dim for the examples of a row. Texts that take fewer tokens than SHORTEST are
counted as that long, so that a row of T tokens has at most T // SHORTEST examples.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from typing_extensions import override

from tlx.objectives.shared.arrays import pad_to_length
from tlx.tasks.shared.base import Item, Task, TaskSpec
from tlx.tasks.shared.inputs import characters_of, input_row
from tlx.tasks.shared.spans import max_text_tokens

SHORTEST = 8


class JoinedItems(NamedTuple):
    """The examples of a row."""

    items: tuple[Item, ...]
    """The examples, in order."""
    record: int = 0
    """Index of the record that they, or the first of them, are from."""


class PackableTask(Task):
    """Base of tasks whose config has `packing`: a row of training then holds as many examples as fit it."""

    @override
    def packs(self, config: Any) -> bool:
        """Return config.packing."""
        return config.packing

    @override
    def example_size(self, item: JoinedItems, spec: TaskSpec) -> int:
        """Return how many tokens of a row the examples of an item take."""
        sizes = []
        for example in item.items:
            special = spec.length - max_text_tokens(len(example.texts), spec)
            sizes.append(special + sum(len(text) for text in example.texts))
        return sum(min(max(size, SHORTEST), spec.length) for size in sizes)

    @override
    def join(self, items: Sequence[JoinedItems]) -> JoinedItems:
        """Return one item of the examples of several."""
        return JoinedItems(tuple(example for item in items for example in item.items), items[0].record)


def joined_row(
    item: JoinedItems, spec: TaskSpec, labels_of: Callable[[Item], dict[str, np.ndarray]], empty: Item
) -> dict[str, np.ndarray]:
    """Make the arrays of a row of several examples.

    Args:
        item: The examples.
        spec: What examples depend on.
        labels_of: Returns `label` and `weights` of one example.
        empty: An example of empty texts, for what is left of the row.

    Returns:
        tokens, positions, segments (from 1, a number for each example), types, langs [length]; `place` and those of
        labels_of [length // SHORTEST, ...], of which those that stand for no example have weights 0.
    """
    slots = max(spec.length // SHORTEST, 1)
    rows = [input_row(example.texts, spec, example.languages) for example in item.items]
    like = input_row(empty.texts, spec)
    arrays = _labels(item, slots, labels_of, empty)
    begins = np.zeros(0)
    for prefix in [name.removesuffix("tokens") for name in like if name.endswith("tokens")]:
        sizes = [int(row[prefix + "segments"].sum()) for row in rows]
        begins = np.cumsum([0, *sizes])  # at the end the decoder's, to whose row `place` belongs
        for name in [prefix + "tokens", prefix + "positions", "types", "langs"]:
            if name in like:
                pad = spec.vocab.pad if name == prefix + "tokens" else 0
                values = _concatenated([row[name] for row in rows], sizes)
                arrays[name] = pad_to_length(values, spec.length, pad)
        numbers = np.repeat(np.arange(1, len(sizes) + 1), sizes)
        arrays[prefix + "segments"] = pad_to_length(numbers, spec.length)
        arrays |= characters_of(arrays[prefix + "tokens"], spec)
    positions = [row["place"] + begin for row, begin in zip(rows, begins[:-1], strict=True)]
    return arrays | {"place": pad_to_length(np.array(positions, np.int32), slots)}


def _labels(
    item: JoinedItems, slots: int, labels_of: Callable[[Item], dict[str, np.ndarray]], empty: Item
) -> dict[str, np.ndarray]:
    filler = labels_of(empty)
    filler |= {"weights": np.zeros_like(filler["weights"])}
    labels = [labels_of(example) for example in item.items] + [filler] * (slots - len(item.items))
    return {name: np.stack([arrays[name] for arrays in labels]) for name in filler}


def _concatenated(rows: list[np.ndarray], sizes: list[int]) -> np.ndarray:
    """Return the first sizes[i] values of each row, one after the other."""
    pieces = [row[:count] for row, count in zip(rows, sizes, strict=True)]
    return np.concatenate([*pieces, np.zeros(0, np.int32)])
