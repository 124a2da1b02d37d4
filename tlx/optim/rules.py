"""Numbers for parameters by regular expressions over their paths, which can name layers of a stack."""

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tlx.base import tree
from tlx.base.errors import ConfigError
from tlx.optim.leaves import STACK, Leaf

# One number, or one for each layer of a stack.
Value = float | np.ndarray

_LAYERS = re.compile(STACK + r"\[(?:(?P<index>-?\d+)|(?P<start>-?\d+)?:(?P<stop>-?\d+)?)\]")


class _Pattern(NamedTuple):
    """A regular expression, and the layers of the stack that it is about (None: all)."""

    regex: str
    layers: slice | int | None

    def matches(self, leaf: Leaf, depth: int) -> np.ndarray:
        """bool [layers], or [1] where none are stacked; a part of fewer than `depth` is the last layers'."""
        found = tree.matches(self.regex, leaf.path)
        if self.layers is None or not found:
            return np.full(leaf.layers or 1, found)
        if leaf.layers is None:
            return np.zeros(1, bool)
        hit = np.zeros(depth, bool)
        if isinstance(self.layers, slice) or -depth <= self.layers < depth:
            hit[self.layers] = True
        return hit[depth - leaf.layers :]


def by_path(
    field: str,
    rules: Sequence[tuple[str, float]],
    leaves: Mapping[str, Leaf],
    default: Callable[[Leaf], float],
) -> dict[str, Value]:
    """{path: value of the first rule that matches, else default(leaf)}; an array where layers differ.

    Raises ConfigError for an expression that cannot be read or that matches no parameter.
    """
    parsed = [(_parse(field, pattern), factor) for pattern, factor in rules]
    depths: dict[str, int] = {}
    for path, leaf in leaves.items():
        depths[_stack(path)] = max(depths.get(_stack(path), 0), leaf.layers or 0)
    matched = [
        {path: pattern.matches(leaf, depths[_stack(path)]) for path, leaf in leaves.items()}
        for pattern, _ in parsed
    ]
    for (pattern, _), hits in zip(rules, matched, strict=True):
        if not any(hit.any() for hit in hits.values()):
            raise ConfigError(_nothing(field, pattern, leaves))
    values: dict[str, Value] = {}
    for path, leaf in leaves.items():
        value = np.full(leaf.layers or 1, default(leaf), np.float32)
        for (_, factor), hits in reversed(list(zip(parsed, matched, strict=True))):
            value[hits[path]] = factor
        values[path] = float(value[0]) if (value == value[0]).all() else value
    return values


def _stack(path: str) -> str:
    """The stack of layers that a parameter is in."""
    return path.split(STACK)[0]


def _parse(field: str, pattern: str) -> _Pattern:
    found = _LAYERS.search(pattern)
    layers: slice | int | None = None
    if found:
        start, stop = (int(text) if text else None for text in found.group("start", "stop"))
        layers = int(found["index"]) if found["index"] else slice(start, stop)
    regex = _LAYERS.sub(STACK, pattern)
    try:
        re.compile(regex)
    except re.error as error:
        raise ConfigError(f"{field}: {pattern!r} is not a regular expression: {error}") from error
    return _Pattern(regex, layers)


def _nothing(field: str, pattern: str, leaves: Mapping[str, Leaf]) -> str:
    paths = list(leaves)
    near = difflib.get_close_matches(_LAYERS.sub(STACK, pattern), paths, n=3, cutoff=0.3) or paths[:3]
    depths = {leaf.layers for leaf in leaves.values() if leaf.layers}
    layers = f"; stacks have {', '.join(map(str, sorted(depths)))} layers" if depths else ""
    return f"{field}: {pattern!r} matches no parameter; near: {', '.join(near)}{layers}"
