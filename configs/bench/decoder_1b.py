"""The train step of a decoder of 1.1 billion parameters, like Llama: 8 rows of 2,048 tokens.

    tlx bench --config=configs/bench/decoder_1b.py

On bytes of Python's standard library, so on any machine; hardware: one H200 (none was at hand:
no figures are recorded yet). ":tiny" behind it is the same for a laptop, in seconds.
"""

from ml_collections import ConfigDict

from tlx.recipes import measured
from tlx.run import base_config


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: "" or "tiny"."""
    config = base_config("clm")
    model = config.model
    model.width, model.num_layers, model.vocab_size = 2048, 20, 32_768
    model.attention.num_heads, model.feedforward.ff_dim, model.feedforward.gated = 16, 5632, True
    model.feedforward.activation, model.norm.kind, model.position.kind = "silu", "rmsnorm", "rotary"
    model.attention.qkv_bias = model.attention.out_bias = model.feedforward.bias = False
    config.data.sequence_length, config.train.batch_size = 2048, 8
    model.execution.remat = "query+key+value+attention+attended+in+gate"
    return measured(config, arg)
