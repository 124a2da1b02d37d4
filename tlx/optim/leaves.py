"""What an optimizer knows of a parameter: its path, the shape of one layer, and what its dims mean."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
from flax.core import meta

from tlx.base import tree

# A module or tensor of this name holds layers stacked along a leading dim.
STACK = "blocks"
_VECTORS = ("bias", "scale")


class Leaf(NamedTuple):
    """One parameter. `shape` and `names` are those of one layer; `layers` is None where none are stacked."""

    path: str
    shape: tuple[int, ...]
    names: tuple[str | None, ...] | None
    layers: int | None

    @property
    def sides(self) -> tuple[tuple[int, ...], ...]:
        """Dims that together are one side of a matrix: those of all heads are one, any other is its own."""
        sides: list[tuple[int, ...]] = []
        for dim in range(len(self.shape)):
            name, before = self._name(dim), self._name(dim - 1) if dim else None
            if name == "head_dim" and before in ("heads", "kv_heads"):
                sides[-1] += (dim,)
            else:
                sides.append((dim,))
        return tuple(sides)

    @property
    def is_matrix(self) -> bool:
        """Whether it maps vectors to vectors; biases, scales and norms do not, of however many heads."""
        sides = [side for side in self.sides if self._name(side[0]) != "expert"]
        return len(sides) >= 2 and self.path.rsplit("/", 1)[-1] not in _VECTORS

    @property
    def hidden_sides(self) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
        """(inputs' dims, outputs' dims) of a matrix between hidden vectors; None for anything else.

        Experts are matrices of their own, and so are the parts of a fused kernel (a nameless third dim).
        Tables (vocabulary, positions: a nameless side) and the output matrix are not hidden.
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
    """{path: Leaf} of parameters, real or abstract.

    Boxed ones (with logical names) say what their dims mean and whether layers are stacked; of plain
    ones those under "blocks/" are taken to be stacked.
    """
    leaves = jax.tree_util.tree_leaves_with_path(abstract_params, is_leaf=meta.is_axis_metadata)
    described = (_describe(tree.path_string(path), leaf) for path, leaf in leaves)
    return {leaf.path: leaf for leaf in described}


def _describe(path: str, leaf: Any) -> Leaf:
    shape, names = tuple(meta.unbox(leaf).shape), getattr(leaf, "names", None)
    stacked = names[0] == "layers" if names else STACK in path.split("/")[:-1]
    if not stacked:
        return Leaf(path, shape, names, None)
    return Leaf(path, shape[1:], names[1:] if names else None, shape[0])


def select(flat: Mapping[str, Any], paths: Iterable[str]) -> dict[str, Any]:
    """The nested tree of the leaves at `paths`."""
    return tree.unflatten({path: flat[path] for path in paths})


def owner(state_path: str, paths: Mapping[str, Any]) -> str | None:
    """The parameter that a leaf of optimizer state belongs to: the longest path that ends its own."""
    names = state_path.split("/")
    suffixes = ("/".join(names[start:]) for start in range(len(names)))
    return next((suffix for suffix in suffixes if suffix in paths), None)
