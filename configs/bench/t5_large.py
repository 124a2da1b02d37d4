"""The train step of T5 large: 32 rows of 512 tokens and their spans.

    tlx bench --config=configs/bench/t5_large.py

On bytes of Python's standard library, so on any machine; hardware: one H200 (none was at hand:
no figures are recorded yet). ":tiny" behind it is the same for a laptop, in seconds.
"""

from ml_collections import ConfigDict

from tlx.recipes import measured, published


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: "" or "tiny"."""
    config = published("span_corruption", "t5", "large")
    config.data.sequence_length, config.train.batch_size = 512, 32
    return measured(config, arg)
