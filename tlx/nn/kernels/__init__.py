"""Implementations of softmax attention over the same arguments, and the choice among them."""

from tlx.base.lookup import Table

KERNELS = Table(
    "model.execution.attention",
    {
        "xla": "tlx.nn.kernels.xla:attend",
        "cudnn": "tlx.nn.kernels.cudnn:attend",
        "splash": "tlx.nn.kernels.splash:attend",
        "fused": "tlx.nn.kernels.fused:attend",
    },
)
