"""The train step of T5 large: 32 rows of 512 tokens and their spans.

    tlx bench --config=configs/bench/t5_large.py

It needs no data set: the text is bytes of Python's standard library. Hardware: one H200 (none was available,
so no figures are recorded yet). ":tiny" after the name is the same for a laptop, in seconds.
"""

from ml_collections import ConfigDict

from tlx.recipes import measured, published


def get_config(arg: str = "") -> ConfigDict:
    """Return the config; `arg` is "" for the size above, "tiny" for a laptop."""
    config = published("span_corruption", "t5", "large")
    config.data.sequence_length = 512
    config.train.batch_size = 32
    return measured(config, arg)
