"""CTRL: causal language modelling from a control code (Keskar et al. 2019), its only size, 1.6B.

    tlx train --config=configs/pretrain/ctrl.py
    tlx train --config=configs/pretrain/ctrl.py:tiny

Hardware: 256 TPU v3 chips for two weeks (paper); with mesh.fsdp=8 the state fits. 1,024 rows of 256 a
batch. Expected: text in the style of its code. The codes are the names of the sources. TFDS has substitutes
for the paper's text.
"""

from ml_collections import ConfigDict

from tlx.recipes import published, sized, tfds


def get_config(arg: str = "") -> ConfigDict:
    """Return the config; `arg` is "" for the published size, "tiny" for a laptop."""
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
    config.data.mixture_power = 1.0  # in proportion to their sizes
    config.data.sequence_length = 256
    config.train.batch_size = 1024
    config.train.steps = 800_000
    optimizer = config.optimizer
    optimizer.name = "adagrad"
    optimizer.learning_rate = 0.05
    optimizer.schedule.name = "constant"
    optimizer.schedule.warmup = 25_000
    optimizer.schedule.final_fraction = 0.0
    optimizer.weight_decay = 0.0
    config.train.clip_norm = 0.25
    return sized(config, arg)
