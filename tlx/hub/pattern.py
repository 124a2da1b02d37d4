"""Mapping of tensor dimensions between Hugging Face and tlx: "(n h) d -> d n h" and back."""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np


class Pattern(NamedTuple):
    """A parsed pattern; its left side is the Hugging Face tensor, its right side the tlx parameter."""

    tensor_dims: tuple[tuple[str, ...], ...]
    """Groups of named dimensions, one for each dimension of the Hugging Face tensor; a number is a size."""
    param_dims: tuple[str, ...]
    """Named dimensions of the tlx parameter, in order."""

    @property
    def parts(self) -> int:
        """Number of tlx parameters that are packed in one Hugging Face tensor."""
        return max((int(word) for group in self.tensor_dims for word in group if word.isdigit()), default=1)

    def sizes(self, shape: Sequence[int]) -> dict[str, int]:
        """Return the size of each named dimension, from the shape of the tlx parameter."""
        numbers = {word: int(word) for group in self.tensor_dims for word in group if word.isdigit()}
        return dict(zip(self.param_dims, shape, strict=True)) | numbers

    def tensor_shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """Return the shape of the Hugging Face tensor."""
        return tuple(
            int(np.prod([sizes[word] for word in group], dtype=np.int64)) for group in self.tensor_dims
        )

    def read(self, tensor: np.ndarray, sizes: Mapping[str, int], part: int) -> np.ndarray:
        """Extract one tlx parameter from a Hugging Face tensor, as a view where numpy can make one.

        Args:
            tensor: The Hugging Face tensor.
            sizes: Size of each dimension of the pattern.
            part: Index of the parameter among those packed in the tensor.

        Returns:
            The parameter in the layout of tlx.
        """
        words = [word for group in self.tensor_dims for word in group]
        split = tensor.reshape([sizes[word] for word in words])
        selected = split[tuple(_index(word, part) for word in words)]
        named = [word for word in words if not word.isdigit()]
        return selected.transpose([named.index(word) for word in self.param_dims])

    def write(self, parts: Sequence[np.ndarray], sizes: Mapping[str, int]) -> np.ndarray:
        """Build the Hugging Face tensor from all tlx parameters that are packed in it, in order."""
        words = [word for group in self.tensor_dims for word in group]
        named = [word for word in words if not word.isdigit()]
        transposed = [part.transpose([self.param_dims.index(word) for word in named]) for part in parts]
        # A literal 1 adds no axis to stack along: the final reshape inserts it.
        axes = [i for i, word in enumerate(word for word in words if word != "1") if word.isdigit()]
        if axes:
            packed = np.stack(transposed, axis=axes[0])
        else:
            (packed,) = transposed
        return packed.reshape(self.tensor_shape(sizes))


def parse(text: str) -> Pattern | None:
    """Parse the pattern of a WeightMapping; None if the layouts are the same."""
    if not text:
        return None
    tensor_side, param_side = text.split("->")
    groups = tuple(tuple(group.strip("()").split()) for group in re.findall(r"\([^)]*\)|\S+", tensor_side))
    return Pattern(groups, tuple(param_side.split()))


def _index(word: str, part: int) -> int | slice:
    if not word.isdigit():
        return slice(None)
    return part if int(word) > 1 else 0
