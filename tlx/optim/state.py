"""Shardings of optimizer state: each leaf follows its parameter."""

import itertools
import math
from collections.abc import Iterator
from typing import Any

from jax.sharding import NamedSharding, PartitionSpec

from tlx.base import tree
from tlx.optim.leaves import owner

_Axes = tuple[str, ...]


def state_shardings(abstract_state: Any, abstract_params: Any, param_shardings: Any, mesh: Any) -> Any:
    """Choose the sharding of each leaf of an optimizer's state.

    A leaf belongs to the parameter whose path is a suffix of its own. A leaf of the same shape has the
    parameter's sharding. In a factored leaf, with dims left out or joined, the dims that remain keep their
    mesh axes, and the axes of the others go to the largest dim that they divide, so that the state is sharded
    as many ways as the parameters. Anything else is replicated.

    Args:
        abstract_state: The optimizer's state (jax.eval_shape of init), unboxed.
        abstract_params: The parameters, unboxed.
        param_shardings: NamedSharding of each parameter.
        mesh: The mesh.

    Returns:
        NamedSharding of each leaf of the state.
    """
    params = tree.flatten(abstract_params)
    shardings = tree.flatten(param_shardings)

    def sharding(path: str, leaf: Any) -> NamedSharding:
        param = owner(path, params)
        if param is None:
            return NamedSharding(mesh, PartitionSpec())
        spec = shardings[param].spec
        shape = params[param].shape
        # Moments: elementwise with the parameter, so no communication where the shardings agree.
        if leaf.shape == shape:
            return NamedSharding(mesh, spec)
        split = [_axes(entry) for entry in spec] + [()] * (len(shape) - len(spec))
        return NamedSharding(mesh, _factored(leaf.shape, shape, split, dict(mesh.shape)))

    return tree.map_with_path(sharding, abstract_state)


def _factored(
    shape: tuple[int, ...], whole: tuple[int, ...], split: list[_Axes], sizes: dict[str, int]
) -> PartitionSpec:
    """Return the spec of a factor of a parameter of shape `whole`, whose dims have the mesh axes `split`."""

    def ways(chosen: tuple[_Axes, ...]) -> int:
        return _ways(sum(chosen, ()), sizes)

    # Equal sizes match in several ways; the one that is sharded most takes the least memory.
    best = max(_matches(shape, whole, split), key=ways, default=None)
    if best is None:
        return PartitionSpec()
    chosen_axes = list(best)
    for axis in sum(split, ()):
        if axis in sum(chosen_axes, ()):
            continue
        shard_sizes = [size // _ways(axes, sizes) for size, axes in zip(shape, chosen_axes, strict=True)]
        fits = [dim for dim, size in enumerate(shard_sizes) if size % sizes[axis] == 0]
        if fits:
            dim = max(fits, key=lambda dim: shard_sizes[dim])
            chosen_axes[dim] += (axis,)
    return PartitionSpec(*(axes[0] if len(axes) == 1 else axes or None for axes in chosen_axes))


def _matches(
    shape: tuple[int, ...], whole: tuple[int, ...], split: list[_Axes]
) -> Iterator[tuple[_Axes, ...]]:
    """Yield the axes of `shape`'s dims for each way in which they are runs of `whole`'s dims, in order."""
    ends = range(len(whole) + 1)
    runs = [(start, stop) for start, stop in itertools.combinations(ends, 2)]
    for chosen in itertools.combinations(runs, len(shape)):
        apart = all(first[1] <= second[0] for first, second in itertools.pairwise(chosen))
        if apart and all(
            math.prod(whole[start:stop]) == size for (start, stop), size in zip(chosen, shape, strict=True)
        ):
            # Of joined dims the first varies slowest: only its shards are contiguous.
            yield tuple(split[start] for start, _ in chosen)


def _ways(axes: _Axes, sizes: dict[str, int]) -> int:
    return math.prod(sizes[axis] for axis in axes)


def _axes(entry: Any) -> _Axes:
    if entry is None:
        return ()
    if isinstance(entry, str):
        return (entry,)
    return tuple(entry)
