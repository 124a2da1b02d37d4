"""Parameters as an optimizer sees them: path, shape of one layer, and meaning of its dims."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
from flax.core import meta

from tlx.base import tree

# A module or tensor of this name holds layers stacked along a leading dim.
STACK = "blocks"
# A depthwise convolution's "filter" is a vector for each position that it reads.
_VECTORS = ("bias", "scale", "filter")


class Leaf(NamedTuple):
    """One parameter."""

    path: str
    """Its path, "model/blocks/attention/query/kernel"."""
    shape: tuple[int, ...]
    """Shape of one layer."""
    names: tuple[str | None, ...] | None
    """Logical names of the dims of one layer; None where they are not known."""
    layers: int | None
    """Number of layers that are stacked along a leading dim; None where none are."""

    @property
    def sides(self) -> tuple[tuple[int, ...], ...]:
        """Groups of dims that are one side of a matrix: heads and head_dim are one group, any other dim its own."""
        sides: list[tuple[int, ...]] = []
        for dim in range(len(self.shape)):
            previous = self._name(dim - 1) if dim else None
            if self._name(dim) == "head_dim" and previous in ("heads", "kv_heads"):
                sides[-1] += (dim,)
            else:
                sides.append((dim,))
        return tuple(sides)

    @property
    def is_matrix(self) -> bool:
        """Whether the parameter maps vectors to vectors; biases, scales and filters do not, whatever their dims."""
        sides = [side for side in self.sides if self._name(side[0]) != "expert"]
        # Biases of heads [N, H] have two dims and are still vectors.
        return len(sides) >= 2 and self.path.rsplit("/", 1)[-1] not in _VECTORS

    @property
    def hidden_sides(self) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
        """Input dims and output dims of a matrix between hidden vectors; None for anything else.

        Each expert is a matrix, and so is each part of a fused kernel (a third dim without a name). Tables of
        the vocabulary or of positions (a side without a name) and the output matrix are not hidden.
        """
        if not self.is_matrix or self.names is None:
            return None
        sides = [side for side in self.sides if self._name(side[0]) != "expert"]
        if len(sides) > 2:
            sides = [side for side in sides if self._name(side[0]) is not None]
        if len(sides) != 2 or any(self._name(side[0]) in (None, "vocab") for side in sides):
            return None
        return sides[0], sides[1]

    def _name(self, dim: int) -> str | None:
        return self.names[dim] if self.names is not None else None


def describe(abstract_params: Any) -> dict[str, Leaf]:
    """Describe parameters, real or abstract, by path.

    The logical names of boxed parameters tell what their dims mean and whether layers are stacked. Plain
    parameters are taken to be stacked where they are under "blocks/".
    """
    leaves = jax.tree_util.tree_leaves_with_path(abstract_params, is_leaf=meta.is_axis_metadata)
    described = (_describe(tree.path_string(path), leaf) for path, leaf in leaves)
    return {leaf.path: leaf for leaf in described}


def _describe(path: str, leaf: Any) -> Leaf:
    shape = tuple(meta.unbox(leaf).shape)
    names = getattr(leaf, "names", None)
    stacked = names[0] == "layers" if names else STACK in path.split("/")[:-1]
    if not stacked:
        return Leaf(path, shape, names, None)
    return Leaf(path, shape[1:], names[1:] if names else None, shape[0])


def select(flat: Mapping[str, Any], paths: Iterable[str]) -> dict[str, Any]:
    """Return the nested tree of the leaves at `paths`."""
    return tree.unflatten({path: flat[path] for path in paths})


def owner(state_path: str, paths: Mapping[str, Any]) -> str | None:
    """Return the parameter of a leaf of optimizer state: the longest path that is a suffix of the leaf's."""
    names = state_path.split("/")
    suffixes = ("/".join(names[start:]) for start in range(len(names)))
    # The longest suffix: "kernel" alone could belong to any parameter.
    return next((suffix for suffix in suffixes if suffix in paths), None)
