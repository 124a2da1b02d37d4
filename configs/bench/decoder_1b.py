"""The train step of a decoder of 1.1 billion parameters, like Llama: 8 rows of 2,048 tokens.

    tlx bench --config=configs/bench/decoder_1b.py

    tlx plan --config=configs/bench/decoder_1b.py --target=gpu:h200:1

The second command compiles the step for an H200 that need not be there (jax 0.10.2, cuda13 plugin 0.10.2):

                                        memory      roofline of the module
    before                              38.6 GB     136.0 ms
    the scan copies no parameters       34.5 GB     136.0 ms
    causal kernel, statistics kept      34.4 GB     120.8 ms

It needs no data set: the text is bytes of Python's standard library. Hardware: one H200 (none was available,
so no figures are recorded yet). ":tiny" after the name is the same for a laptop, in seconds.
"""

from ml_collections import ConfigDict

from tlx.recipes import measured
from tlx.run import base_config


def get_config(arg: str = "") -> ConfigDict:
    """Return the config; `arg` is "" for the size above, "tiny" for a laptop."""
    config = base_config("clm")
    model = config.model
    model.width = 2048
    model.num_layers = 20
    model.vocab_size = 32_768
    model.attention.num_heads = 16
    model.feedforward.ff_dim = 5632
    model.feedforward.gated = True
    model.feedforward.activation = "silu"
    model.norm.kind = "rmsnorm"
    model.position.kind = "rotary"
    model.attention.qkv_bias = False
    model.attention.out_bias = False
    model.feedforward.bias = False
    config.data.sequence_length = 2048
    config.train.batch_size = 8
    model.execution.remat = "query+key+value+attention+attended+in+gate"
    return measured(config, arg)
