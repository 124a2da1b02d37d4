"""The train step of BERT large: 32 rows of 512 tokens.

    tlx bench --config=configs/bench/bert_large.py

On bytes of Python's standard library, so on any machine; hardware: one H200 (none was at hand:
no figures are recorded yet). ":tiny" behind it is the same for a laptop, in seconds.
"""

from ml_collections import ConfigDict

from tlx.recipes import measured, published


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: "" or "tiny"."""
    config = published("mlm", "bert", "large")
    config.data.sequence_length, config.train.batch_size = 512, 32
    return measured(config, arg)
