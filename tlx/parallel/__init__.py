"""Floor 1: meshes, the rules from logical names to mesh axes, shardings, and the start of processes."""

from tlx.parallel.rules import AXES, PRESETS, Rule, Rules, used_axes
from tlx.parallel.sharding import (
    PARTITION_NAME,
    Logical,
    constrain,
    logical,
    logical_names,
    param_shardings,
    spec,
    unbox,
    use,
)

__all__ = [
    "AXES",
    "PARTITION_NAME",
    "PRESETS",
    "Logical",
    "Rule",
    "Rules",
    "constrain",
    "logical",
    "logical_names",
    "param_shardings",
    "spec",
    "unbox",
    "use",
    "used_axes",
]
