"""The clusters that `tlx launch` knows."""

from tlx.base.lookup import Table

CLUSTERS = Table(
    "cluster",
    {
        "local": "tlx.launch.local:CLUSTER",
    },
)
