"""ALBERT: masked n-grams and the order of two texts, one layer's parameters for all (Lan et al. 2020), base.

    tlx train --config=configs/pretrain/albert.py
    tlx train --config=configs/pretrain/albert.py:tiny

Hardware: 64 TPU v3 chips (paper: 64 to 512) for a batch of 4,096 rows of 512. Expected after fine-tuning: an
average of 82.3 over five tasks (v2 base). Text as BERT's. The paper's optimizer is LAMB.
"""

from ml_collections import ConfigDict

from tlx.recipes import published, sized, tfds


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: "tiny", or nothing for the published size."""
    config = published("sop", "albert", "base")
    config.tokenizer.model_type = "unigram"
    config.data.mixture = (
        tfds("wikipedia/20230601.en", train_split="train[:99%]", validation_split="train[99%:]"),
        tfds("pg19", column="book_text"),
    )
    config.data.mixture_power = 1.0  # by their sizes
    config.data.sequence_length, config.train.batch_size, config.train.steps = 512, 4096, 125_000
    optimizer = config.optimizer
    optimizer.name = "lamb"
    optimizer.learning_rate, optimizer.schedule.name = 1.76e-3, "linear"
    optimizer.schedule.warmup, optimizer.schedule.final_fraction = 3125, 0.0
    optimizer.weight_decay, config.train.clip_norm = 0.01, 1.0
    return sized(config, arg)
