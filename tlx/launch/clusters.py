"""Kinds of cluster that `tlx launch` starts runs on."""

from tlx.base.lookup import Table

CLUSTERS = Table(
    "cluster",
    {
        "local": "tlx.launch.local:CLUSTER",
        "slurm": "tlx.launch.slurm:CLUSTER",
        "gke": "tlx.launch.gke:CLUSTER",
        "tpu-vm": "tlx.launch.tpu_vm:CLUSTER",
    },
)
