"""ELECTRA: which tokens a small generator has replaced (Clark et al. 2020), base.

    tlx train --config=configs/pretrain/electra.py
    tlx train --config=configs/pretrain/electra.py:tiny

Hardware: 16 TPU v3 chips for 4 days (paper). Expected after fine-tuning: GLUE test 82.7 (base). Text as
BERT's.
"""

from ml_collections import ConfigDict

from tlx.recipes import published, sized, tfds


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: "tiny", or nothing for the published size."""
    config = published("rtd", "electra", "base")
    config.objective.generator_fraction = 1 / 3
    config.data.mixture = (
        tfds("wikipedia/20230601.en", train_split="train[:99%]", validation_split="train[99%:]"),
        tfds("pg19", column="book_text"),
    )
    config.data.mixture_power = 1.0  # by their sizes
    config.data.sequence_length, config.train.batch_size, config.train.steps = 512, 256, 766_000
    optimizer = config.optimizer
    optimizer.learning_rate, optimizer.schedule.name = 2e-4, "linear"
    optimizer.schedule.warmup, optimizer.schedule.final_fraction = 10_000, 0.0
    optimizer.beta1, optimizer.beta2, optimizer.eps = 0.9, 0.999, 1e-6
    optimizer.weight_decay, config.train.clip_norm = 0.01, 1.0
    return sized(config, arg)
