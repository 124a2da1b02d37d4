"""Numbers for parameters by regular expressions over their paths, which can select layers of a stack."""

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
    """A regular expression with the layers of the stack that it selects."""

    regex: str
    layers: slice | int | None  # None: all

    def matches(self, leaf: Leaf, depth: int) -> np.ndarray:
        """Return bool[layers], or [1] without a stack; a leaf with fewer layers than `depth` has the last ones."""
        matches = tree.matches(self.regex, leaf.path)
        if self.layers is None or not matches:
            return np.full(leaf.layers or 1, matches)
        if leaf.layers is None:
            return np.zeros(1, bool)
        selected = np.zeros(depth, bool)
        if isinstance(self.layers, slice) or -depth <= self.layers < depth:
            selected[self.layers] = True
        return selected[depth - leaf.layers :]


def by_path(
    field: str,
    rules: Sequence[tuple[str, float]],
    leaves: Mapping[str, Leaf],
    default: Callable[[Leaf], float],
) -> dict[str, Value]:
    """Give each parameter the value of the first rule that matches it.

    Args:
        field: Name of the config's field, for messages.
        rules: Pairs of pattern and value.
        leaves: The parameters by path.
        default: The value of a parameter, or layer, that no rule matches.

    Returns:
        By path, a number, or an array [layers] where layers differ.

    Raises:
        ConfigError: A pattern is no regular expression, or matches no parameter.
    """
    parsed = [(_parse(field, pattern), factor) for pattern, factor in rules]
    depths: dict[str, int] = {}
    for path, leaf in leaves.items():
        # Leaves of one stack may differ in their number of layers: an index is that of the deepest one.
        depths[_stack(path)] = max(depths.get(_stack(path), 0), leaf.layers or 0)
    matched = [
        {path: pattern.matches(leaf, depths[_stack(path)]) for path, leaf in leaves.items()}
        for pattern, _ in parsed
    ]
    for (pattern, _), hits in zip(rules, matched, strict=True):
        # A rule that matches nothing is a misspelt one: silently ignored, everything would train.
        if not any(hit.any() for hit in hits.values()):
            raise ConfigError(_nothing(field, pattern, leaves))
    values: dict[str, Value] = {}
    for path, leaf in leaves.items():
        value = np.full(leaf.layers or 1, default(leaf), np.float32)
        # The first rule is written last, so that it wins.
        for (_, factor), hits in reversed(list(zip(parsed, matched, strict=True))):
            value[hits[path]] = factor
        values[path] = float(value[0]) if (value == value[0]).all() else value
    return values


def _stack(path: str) -> str:
    """Return the prefix of the stack that a parameter is in."""
    return path.split(STACK)[0]


def _parse(field: str, pattern: str) -> _Pattern:
    match = _LAYERS.search(pattern)
    layers: slice | int | None = None
    if match:
        start, stop = (int(text) if text else None for text in match.group("start", "stop"))
        layers = int(match["index"]) if match["index"] else slice(start, stop)
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
