"""Implementations of softmax attention over one AttentionInputs, and the choice among them.

A kernel is a function from an AttentionInputs (inputs.py) to float[B, T, N, H], named in the table KERNELS.
choice.py says which one runs where.
"""

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
