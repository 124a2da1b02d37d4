"""How the dims of a tensor map: "(n h) d -> d n h", theirs to ours, and back."""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np


class Pattern(NamedTuple):
    """A parsed pattern: groups of their dims, and the order of ours. A number is a dim of that size."""

    theirs: tuple[tuple[str, ...], ...]
    ours: tuple[str, ...]

    @property
    def parts(self) -> int:
        """How many of our tensors are packed in one of theirs."""
        return max((int(word) for group in self.theirs for word in group if word.isdigit()), default=1)

    def sizes(self, shape: Sequence[int]) -> dict[str, int]:
        """The size of each dim, from the shape of ours."""
        numbers = {word: int(word) for group in self.theirs for word in group if word.isdigit()}
        return dict(zip(self.ours, shape, strict=True)) | numbers

    def their_shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The shape of theirs."""
        return tuple(int(np.prod([sizes[word] for word in group], dtype=np.int64)) for group in self.theirs)

    def read(self, tensor: np.ndarray, sizes: Mapping[str, int], part: int) -> np.ndarray:
        """Ours from theirs: a view where numpy can make one."""
        words = [word for group in self.theirs for word in group]
        whole = tensor.reshape([sizes[word] for word in words])
        picked = whole[tuple(_index(word, part) for word in words)]
        left = [word for word in words if not word.isdigit()]
        return picked.transpose([left.index(word) for word in self.ours])

    def write(self, parts: Sequence[np.ndarray], sizes: Mapping[str, int]) -> np.ndarray:
        """Theirs from all that is packed in it, in order."""
        words = [word for group in self.theirs for word in group]
        left = [word for word in words if not word.isdigit()]
        turned = [part.transpose([self.ours.index(word) for word in left]) for part in parts]
        packed = [i for i, word in enumerate(word for word in words if word != "1") if word.isdigit()]
        if packed:
            whole = np.stack(turned, axis=packed[0])
        else:
            (whole,) = turned
        return whole.reshape(self.their_shape(sizes))


def parse(text: str) -> Pattern | None:
    """The pattern that a Row writes; None for no change."""
    if not text:
        return None
    theirs, ours = text.split("->")
    groups = tuple(tuple(group.strip("()").split()) for group in re.findall(r"\([^)]*\)|\S+", theirs))
    return Pattern(groups, tuple(ours.split()))


def _index(word: str, part: int) -> int | slice:
    if not word.isdigit():
        return slice(None)
    return part if int(word) > 1 else 0
