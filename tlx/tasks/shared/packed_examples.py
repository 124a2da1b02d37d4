"""Several short examples in one row of training, so that little of it is padding.

Each example stands as it would alone (rows.py): positions begin anew, no example sees another, and `place`,
`label` and `weights` have a dim for the examples of a row. Texts that take fewer places than SHORTEST are
counted as that long, so that a row of T places has at most T // SHORTEST examples.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from tlx.tasks.shared.base import Item, TaskSpec
from tlx.tasks.shared.inputs import input_row, pad_to_length

SHORTEST = 8


class JoinedItems(NamedTuple):
    """An item: the examples of a row, and the record that they (or the first of them) are from."""

    items: tuple[Item, ...]
    record: int = 0


def size(item: JoinedItems, spec: TaskSpec) -> int:
    """Places that an item takes in a row."""
    frames = (len(spec.prompt) + 1 + sum(len(text) + 1 for text in one.texts) for one in item.items)
    return sum(min(max(frame, SHORTEST), spec.length) for frame in frames)


def join(items: Sequence[JoinedItems]) -> JoinedItems:
    """One item of several."""
    return JoinedItems(tuple(one for item in items for one in item.items), items[0].record)


def joined_row(
    item: JoinedItems, spec: TaskSpec, labels_of: Callable[[Item], dict[str, np.ndarray]], blank: Item
) -> dict[str, np.ndarray]:
    """The row's arrays [length]; `place` and labels_of's [length // SHORTEST, ...], of which those that stand
    for no example have weights 0. Examples count from segment 1."""
    slots = max(spec.length // SHORTEST, 1)
    rows, like = [input_row(one.texts, spec) for one in item.items], input_row(blank.texts, spec)
    found, begins = _labels(item, slots, labels_of, blank), np.zeros(0)
    for tower in [name.removesuffix("tokens") for name in like if name.endswith("tokens")]:
        sizes = [int(row[tower + "segments"].sum()) for row in rows]
        begins = np.cumsum([0, *sizes])  # at the end those of the decoder, where places are
        for name in [tower + "tokens", tower + "positions", "types"]:
            if name in like:
                pad = spec.vocab.pad if name == tower + "tokens" else 0
                found[name] = pad_to_length(_cut([row[name] for row in rows], sizes), spec.length, pad)
        found[tower + "segments"] = pad_to_length(np.repeat(np.arange(1, len(sizes) + 1), sizes), spec.length)
    places = [row["place"] + begin for row, begin in zip(rows, begins[:-1], strict=True)]
    return found | {"place": pad_to_length(np.array(places, np.int32), slots)}


def _labels(item: JoinedItems, slots: int, labels_of: Callable, blank: Item) -> dict[str, np.ndarray]:
    empty = labels_of(blank)
    empty |= {"weights": np.zeros_like(empty["weights"])}
    labels = [labels_of(one) for one in item.items] + [empty] * (slots - len(item.items))
    return {name: np.stack([one[name] for one in labels]) for name in empty}


def _cut(rows: list[np.ndarray], sizes: list[int]) -> np.ndarray:
    """The first of each row, one behind the other."""
    pieces = [row[:count] for row, count in zip(rows, sizes, strict=True)]
    return np.concatenate([*pieces, np.zeros(0, np.int32)])
