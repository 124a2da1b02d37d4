"""Logical names of the dims of parameters and activations, and the shardings that follow from them.

A module declares `self.param("kernel", logical(init, ("embed", "mlp")), shape)` and constrains what it
computes with `constrain(x_BTD, ("batch", "sequence", "activation_embed"))`. The rules in `with use(mesh, rules):`
decide which mesh axes these names stand for.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import flax.struct
import jax
from flax.core import meta
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from tlx.base import tree
from tlx.base.errors import ConfigError, one_of
from tlx.parallel.presets import ShardingRules

Names = tuple[str | None, ...]

# The key under which nn.scan(..., metadata_params={PARTITION_NAME: "layers"}) names the dim that it adds.
PARTITION_NAME = meta.PARTITION_NAME

# A user context is part of the key of jit's caches, unlike a contextvar: other rules are traced anew.
_RULES = jax.make_user_context(())


class Logical(flax.struct.PyTreeNode, meta.AxisMetadata):
    """A box around a parameter with the logical name of each dim; None: the dim is never sharded."""

    value: Any
    names: Names = flax.struct.field(pytree_node=False)
    contracted: tuple[int, ...] | None = flax.struct.field(pytree_node=False, default=None)
    """Dims that a product with a matrix sums over, negative, as dims of layers are inserted before them; None: the
    parameter is no matrix that nn/weight_formats.py may store in fewer bits."""

    def unbox(self) -> Any:
        """Return the parameter."""
        return self.value

    def replace_boxed(self, val: Any) -> "Logical":
        """Return the box around another value."""
        return self.replace(value=val)

    def add_axis(self, index: int, params: dict[Any, Any]) -> "Logical":
        """Insert the name of a dim that a transformation of Flax adds."""
        names = list(self.names)
        names.insert(index, params.get(PARTITION_NAME))
        return self.replace(names=tuple(names))

    def remove_axis(self, index: int, params: dict[Any, Any]) -> "Logical":
        """Remove the name of a dim that a transformation of Flax removes."""
        return self.replace(names=self.names[:index] + self.names[index + 1 :])


def logical(
    init: Callable[..., jax.Array], names: Sequence[str | None], contracted: tuple[int, ...] | None = None
) -> Callable[..., jax.Array]:
    """Wrap an initializer so that its result is boxed (Logical) with one logical name per dim.

    It is typed as an initializer of arrays, since Module.param removes the box.

    Args:
        init: The initializer.
        names: Logical name of each dim.
        contracted: As the box's: given, the module reads the parameter through nn/weight_formats.py.

    Returns:
        The initializer of the boxed parameter.
    """

    def boxed(*args: Any, **kwargs: Any) -> Logical:
        value = init(*args, **kwargs)
        if value.ndim != len(names):
            raise ValueError(f"{len(names)} logical names {tuple(names)} for shape {value.shape}")
        return Logical(value, tuple(names), contracted)

    return cast(Callable[..., jax.Array], boxed)


def unbox(boxed: Any) -> Any:
    """Remove the boxes of a tree; arrays stay as they are."""
    return meta.unbox(boxed)


def logical_names(boxed: Any) -> Any:
    """Return the unboxed tree with a tuple of logical names for each leaf; all None where it had no box."""
    return jax.tree.map(_names, boxed, is_leaf=_is_box)


def spec(
    names: Sequence[str | None],
    shape: Sequence[int],
    mesh: Mesh | AbstractMesh,
    rules: ShardingRules,
    what: str,
) -> PartitionSpec:
    """Choose the PartitionSpec of an array.

    A dim takes the axes of its rule, except those of size 1 and those that an earlier dim has; a dim of size 1 is
    not sharded.

    Args:
        names: Logical name of each dim; None: not sharded.
        shape: Shape of the array.
        mesh: The mesh.
        rules: Rules from logical names to mesh axes.
        what: Name of the array, for messages.

    Returns:
        The spec.

    Raises:
        ConfigError: A dim does not divide over its mesh axes.
        ValueError: The names do not fit the shape, or a name is not in the rules.
    """
    if len(names) != len(shape):
        raise ValueError(f"{what}: {len(names)} logical names {tuple(names)} for shape {tuple(shape)}")
    table = {rule.name: rule.axes for rule in rules}
    # Axes of size 1 are left out, so that equal layouts have equal specs, whatever the mesh. Manual axes
    # belong to a shard_map.
    free = [axis for axis, kind in _kinds(mesh).items() if kind == AxisType.Auto and mesh.shape[axis] > 1]
    entries: list[Any] = []
    for name, size in zip(names, shape, strict=True):
        if name is not None and name not in table:
            raise ValueError(f"{what}: " + one_of("logical name", name, table))
        candidates = () if name is None else table[name]
        axes = tuple(axis for axis in candidates if axis in free and size != 1)
        _check_divides(what, name, size, axes, mesh)
        # A mesh axis can shard one dim only; the first dim that names it has it.
        free = [axis for axis in free if axis not in axes]
        entries.append(axes[0] if len(axes) == 1 else axes or None)
    return PartitionSpec(*entries)


def param_shardings(boxed_params: Any, mesh: Mesh | AbstractMesh, rules: ShardingRules) -> Any:
    """Choose the sharding of each parameter.

    Parameters without a dim "embed" (norms, biases) are sharded over its axes along the largest dim that these
    divide, so that no parameter is replicated over them.

    Args:
        boxed_params: Boxed parameters, abstract or real.
        mesh: The mesh.
        rules: Rules from logical names to mesh axes.

    Returns:
        NamedSharding of each leaf of the unboxed tree.

    Raises:
        ConfigError: A dim does not divide; names the parameter, the size, the axis and the legal values.
    """

    def sharding(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        names = _names(leaf)
        shape = unbox(leaf).shape
        layout = spec(names, shape, mesh, rules, f"parameter {tree.path_string(path)}")
        return NamedSharding(mesh, _spread(layout, names, shape, mesh, rules))

    return jax.tree_util.tree_map_with_path(sharding, boxed_params, is_leaf=_is_box)


@contextlib.contextmanager
def use(mesh: Mesh | AbstractMesh, rules: ShardingRules) -> Iterator[None]:
    """Make `constrain` shard over a mesh by these rules; an AbstractMesh is enough for tracing."""
    if isinstance(mesh, AbstractMesh):
        context = jax.sharding.use_abstract_mesh(mesh)
    else:
        context = jax.set_mesh(mesh)
    with context, _RULES(rules):
        yield


@contextlib.contextmanager
def unconstrained() -> Iterator[None]:
    """Make `constrain` return its array as it is, for traces whose shapes no mesh has to divide."""
    with _RULES(()):
        yield


def constrain(x: jax.Array, names: Sequence[str | None]) -> jax.Array:
    """Constrain the sharding of `x` to the logical names of its dims; `x` itself where there is no mesh."""
    layout = spec_in_use(names, x.shape)
    return x if layout is None else jax.lax.with_sharding_constraint(x, layout)


def spec_in_use(names: Sequence[str | None], shape: Sequence[int]) -> PartitionSpec | None:
    """Return the spec of such an array by the mesh and rules in use; None without a mesh of several devices."""
    mesh = jax.sharding.get_abstract_mesh()
    rules = _RULES.value
    # Nothing is sharded on one device: the program stays as it is without a mesh.
    if mesh.empty or mesh.size == 1 or not rules:
        return None
    return spec(names, shape, mesh, rules, f"activation {'x'.join(map(str, shape))}")


def _check_divides(what: str, name: str | None, size: int, axes: tuple[str, ...], mesh: Any) -> None:
    ways = math.prod(mesh.shape[axis] for axis in axes)
    if size % ways:
        sizes = " x ".join(f"{axis}={mesh.shape[axis]}" for axis in axes)
        divisors = [str(n) for n in range(1, size + 1) if size % n == 0]
        shown = ", ".join(divisors if len(divisors) <= 16 else divisors[:12] + ["...", divisors[-1]])
        raise ConfigError(
            f"{what}: the dim {name!r} of size {size} does not divide over mesh axes {sizes}; "
            f"make it a multiple of {ways}, or shard it over one of: {shown}"
        )


def _spread(
    layout: PartitionSpec, names: Names, shape: Sequence[int], mesh: Any, rules: ShardingRules
) -> PartitionSpec:
    """Add the axes of "embed", where no dim has them, to the largest dim that they divide."""
    entries: list[tuple[str, ...]] = [
        (entry,) if isinstance(entry, str) else tuple(entry or ()) for entry in layout
    ]
    wanted = [axis for rule in rules if rule.name == "embed" for axis in rule.axes if mesh.shape[axis] > 1]
    for axis in wanted:
        shard_sizes = {
            dim: shape[dim] // math.prod(mesh.shape[other] for other in axes)
            for dim, axes in enumerate(entries)
            # The scan slices the stack: sharded over layers, every step would gather its layer.
            if names[dim] != "layers"
        }
        fits = [dim for dim, size in shard_sizes.items() if size % mesh.shape[axis] == 0]
        if fits and not any(axis in axes for axes in entries):
            entries[max(fits, key=shard_sizes.__getitem__)] += (axis,)
    return PartitionSpec(*(axes[0] if len(axes) == 1 else axes or None for axes in entries))


def _kinds(mesh: Mesh | AbstractMesh) -> dict[str, AxisType]:
    return dict(zip(mesh.axis_names, mesh.axis_types, strict=True))


def _is_box(leaf: Any) -> bool:
    return isinstance(leaf, Logical)


def _names(leaf: Any) -> Names:
    return leaf.names if _is_box(leaf) else (None,) * leaf.ndim
