"""Which mesh axes each logical name of a dim is split over: one table, one preset per way of sharding."""

from typing import NamedTuple

# Mesh axes, slowest network first: neighbours on the last ones talk most.
AXES = ("data", "fsdp", "expert", "context", "tensor")


class Rule(NamedTuple):
    """A logical name and the mesh axes that its dims are split over (none: never split)."""

    name: str
    axes: tuple[str, ...]


Rules = tuple[Rule, ...]

# A dim takes the axes of its row that no earlier dim of the same array has taken, so that one row for
# "embed" serves parameters (split over fsdp) and activations (whose batch dim has taken fsdp already).
_FULL: Rules = (
    # activations
    Rule("batch", ("data", "fsdp", "expert")),
    Rule("sequence", ("context",)),
    Rule("key_sequence", ()),
    Rule("activation_embed", ()),
    # parameters, and the activations that they make
    Rule("embed", ("fsdp",)),
    Rule("heads", ("tensor",)),
    Rule("kv_heads", ("tensor",)),
    Rule("head_dim", ()),
    Rule("mlp", ("tensor",)),
    Rule("vocab", ("tensor",)),
    Rule("expert", ("expert",)),
    Rule("layers", ()),
    Rule("norm", ()),
)


def _only(*axes: str) -> Rules:
    return tuple(Rule(rule.name, tuple(axis for axis in rule.axes if axis in axes)) for rule in _FULL)


PRESETS: dict[str, Rules] = {
    "dp": _only("data"),
    "fsdp": _only("data", "fsdp", "expert"),
    "tp": _only("data", "tensor", "expert"),
    "fsdp_tp": _only("data", "fsdp", "tensor", "expert"),
    "fsdp_tp_cp": _FULL,
}


def used_axes(rules: Rules) -> tuple[str, ...]:
    """The mesh axes that some logical name is split over, in the order of AXES."""
    used = {axis for rule in rules for axis in rule.axes}
    return tuple(axis for axis in AXES if axis in used)
