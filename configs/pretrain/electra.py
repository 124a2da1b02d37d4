"""ELECTRA: detection of tokens that a small generator replaced (Clark et al. 2020), base.

    tlx train --config=configs/pretrain/electra.py
    tlx train --config=configs/pretrain/electra.py:tiny

Hardware: 16 TPU v3 chips for 4 days (paper). Expected after fine-tuning: GLUE test 82.7 (base). Text and
optimizer: as BERT's.
"""

from ml_collections import ConfigDict

from tlx.recipes import published, sized, tfds


def get_config(arg: str = "") -> ConfigDict:
    """Return the config; `arg` is "" for the published size, "tiny" for a laptop."""
    config = published("rtd", "electra", "base")
    config.objective.generator_fraction = 1 / 3
    config.data.mixture = (
        tfds("wikipedia/20230601.en", train_split="train[:99%]", validation_split="train[99%:]"),
        tfds("pg19", column="book_text"),
    )
    config.data.mixture_power = 1.0  # in proportion to their sizes
    config.data.sequence_length = 512
    config.train.batch_size = 256
    config.train.steps = 766_000
    optimizer = config.optimizer
    optimizer.learning_rate = 2e-4
    optimizer.schedule.name = "linear"
    optimizer.schedule.warmup = 10_000
    optimizer.schedule.decay_from = "start"
    optimizer.schedule.final_fraction = 0.0
    optimizer.beta1 = 0.9
    optimizer.beta2 = 0.999
    optimizer.eps = 1e-6
    optimizer.bias_correction = False
    optimizer.weight_decay = 0.01
    config.train.clip_norm = 1.0
    return sized(config, arg)
