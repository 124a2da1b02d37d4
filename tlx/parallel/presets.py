"""Which mesh axes each logical name of a dim is split over: one table, one preset per way of sharding."""

from typing import NamedTuple

# Mesh axes, slowest network first: neighbours on the last ones talk most.
AXES = ("data", "fsdp", "expert", "context", "tensor")


class ShardingRule(NamedTuple):
    """A logical name and the mesh axes that its dims are split over (none: never split)."""

    name: str
    axes: tuple[str, ...]


ShardingRules = tuple[ShardingRule, ...]

# A dim takes the axes of its row that no earlier dim of the same array has taken, so that one row for
# "embed" serves parameters (split over fsdp) and activations (whose batch dim has taken fsdp already).
_FULL: ShardingRules = (
    # activations
    ShardingRule("batch", ("data", "fsdp", "expert")),
    ShardingRule("sequence", ("context",)),
    ShardingRule("key_sequence", ()),
    ShardingRule("activation_embed", ()),
    # parameters, and the activations that they make
    ShardingRule("embed", ("fsdp",)),
    ShardingRule("heads", ("tensor",)),
    ShardingRule("kv_heads", ("tensor",)),
    ShardingRule("head_dim", ()),
    ShardingRule("mlp", ("tensor",)),
    ShardingRule("vocab", ("tensor",)),
    ShardingRule("expert", ("expert",)),
    ShardingRule("layers", ()),
    ShardingRule("norm", ()),
)


def _only(*axes: str) -> ShardingRules:
    return tuple(ShardingRule(rule.name, tuple(axis for axis in rule.axes if axis in axes)) for rule in _FULL)


PRESETS: dict[str, ShardingRules] = {
    "dp": _only("data"),
    "fsdp": _only("data", "fsdp", "expert"),
    "tp": _only("data", "tensor", "expert"),
    "fsdp_tp": _only("data", "fsdp", "tensor", "expert"),
    "fsdp_tp_cp": _FULL,
}


def used_axes(rules: ShardingRules) -> tuple[str, ...]:
    """The mesh axes that some logical name is split over, in the order of AXES."""
    used = {axis for rule in rules for axis in rule.axes}
    return tuple(axis for axis in AXES if axis in used)
