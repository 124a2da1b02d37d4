"""ALBERT: masked n-grams and sentence order, one layer's parameters shared by all (Lan et al. 2020), base.

    tlx train --config=configs/pretrain/albert.py
    tlx train --config=configs/pretrain/albert.py:tiny

Hardware: 64 TPU v3 chips (paper: 64 to 512) for a batch of 4,096 rows of 512. Expected after fine-tuning: an
average of 82.3 over five tasks (v2 base). Text: as BERT's. The optimizer is LAMB with the released code's
moments (0.9, 0.999, 1e-6), without bias correction, and with BERT's schedule.
"""

from ml_collections import ConfigDict

from tlx.recipes import published, sized, tfds


def get_config(arg: str = "") -> ConfigDict:
    """Return the config; `arg` is "" for the published size, "tiny" for a laptop."""
    config = published("sop", "albert", "base")
    config.tokenizer.model_type = "unigram"
    config.data.mixture = (
        tfds("wikipedia/20230601.en", train_split="train[:99%]", validation_split="train[99%:]"),
        tfds("pg19", column="book_text"),
    )
    config.data.mixture_power = 1.0  # in proportion to their sizes
    config.data.sequence_length = 512
    config.train.batch_size = 4096
    config.train.steps = 125_000
    optimizer = config.optimizer
    optimizer.name = "lamb"
    optimizer.learning_rate = 1.76e-3
    optimizer.schedule.name = "linear"
    optimizer.schedule.warmup = 3125
    optimizer.schedule.decay_from = "start"
    optimizer.schedule.final_fraction = 0.0
    optimizer.beta1 = 0.9
    optimizer.beta2 = 0.999
    optimizer.eps = 1e-6
    optimizer.bias_correction = False
    optimizer.weight_decay = 0.01
    config.train.clip_norm = 1.0
    return sized(config, arg)
