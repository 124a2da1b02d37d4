"""CTRL: causal language modelling from a control code (Keskar et al. 2019), its one size of 1.6 billion.

    tlx train --config=configs/pretrain/ctrl.py
    tlx train --config=configs/pretrain/ctrl.py:tiny

Hardware: 256 TPU v3 chips for two weeks (paper); mesh.fsdp=8 for the state to fit. Rows of 256, 1,024 in a
batch. Expected: text in the style of its code. The codes are the sources' names. Of the paper's text TFDS
has stand-ins.
"""

from ml_collections import ConfigDict

from tlx.recipes import published, sized, tfds


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: "tiny", or nothing for the published size."""
    config = published("ctrl", "ctrl", "large")
    config.data.mixture = (
        tfds(
            "wikipedia/20230601.en",
            language="Wikipedia",
            train_split="train[:99%]",
            validation_split="train[99%:]",
        ),
        tfds("pg19", language="Books", column="book_text"),
        tfds("cnn_dailymail", language="News", column="article"),
        tfds("yelp_polarity_reviews", language="Reviews", validation_split="test"),
        tfds("c4/webtextlike", language="Links"),
    )
    config.data.mixture_power = 1.0  # by their sizes
    config.data.sequence_length, config.train.batch_size, config.train.steps = 256, 1024, 800_000
    optimizer = config.optimizer
    optimizer.name = "adagrad"
    optimizer.learning_rate, optimizer.schedule.name = 0.05, "constant"
    optimizer.schedule.warmup, optimizer.schedule.final_fraction = 25_000, 0.0
    optimizer.weight_decay, config.train.clip_norm = 0.0, 0.25
    return sized(config, arg)
