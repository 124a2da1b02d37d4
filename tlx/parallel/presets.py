"""Presets of sharding rules: the mesh axes that each logical name of a dim is sharded over."""

from typing import NamedTuple

# Mesh axes, slowest network first: the last ones carry the most traffic.
AXES = ("data", "fsdp", "expert", "context", "tensor")


class ShardingRule(NamedTuple):
    """A logical name with the mesh axes that its dims are sharded over."""

    name: str
    """Logical name of a dim."""
    axes: tuple[str, ...]
    """Mesh axes; none: the dim is never sharded."""


ShardingRules = tuple[ShardingRule, ...]

# A dim takes the axes of its rule that no earlier dim of the same array has taken. So one rule for "embed"
# serves parameters, which are sharded over fsdp, and activations, whose batch dim has taken fsdp already.
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
    """Return the mesh axes that some logical name is sharded over, in the order of AXES."""
    used = {axis for rule in rules for axis in rule.axes}
    return tuple(axis for axis in AXES if axis in used)
