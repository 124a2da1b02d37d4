"""Meshes, rules from logical names to mesh axes, shardings, and the start of processes."""

from tlx.parallel.batch import batch_sharding, local_rows, rows_by_process, to_global
from tlx.parallel.config import MeshConfig, rules
from tlx.parallel.mesh import abstract_mesh, make_mesh
from tlx.parallel.presets import AXES, PRESETS, ShardingRule, ShardingRules
from tlx.parallel.process import leave, start_process
from tlx.parallel.sharding import (
    PARTITION_NAME,
    Logical,
    constrain,
    logical,
    logical_names,
    param_shardings,
    spec,
    spec_in_use,
    unbox,
    unconstrained,
    use,
)

__all__ = [
    "AXES",
    "PARTITION_NAME",
    "PRESETS",
    "Logical",
    "MeshConfig",
    "ShardingRule",
    "ShardingRules",
    "abstract_mesh",
    "batch_sharding",
    "constrain",
    "leave",
    "local_rows",
    "logical",
    "logical_names",
    "make_mesh",
    "param_shardings",
    "rows_by_process",
    "rules",
    "spec",
    "spec_in_use",
    "start_process",
    "to_global",
    "unbox",
    "unconstrained",
    "use",
]
