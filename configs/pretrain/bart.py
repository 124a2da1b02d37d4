"""BART: permuted sentences and infilled spans (Lewis et al. 2020), base.

    tlx train --config=configs/pretrain/bart.py
    tlx train --config=configs/pretrain/bart.py:tiny

Hardware: a batch of 8,000 rows of 512 on 64 chips or more; train.microbatches on fewer. 500,000 steps, as
the published models. Expected after fine-tuning (large): CNN/DailyMail ROUGE 44.16, 21.28, 40.90. The paper
gives no learning rate: it is RoBERTa's here. Text: as RoBERTa's.
"""

from ml_collections import ConfigDict

from tlx.recipes import published, sized, tfds


def get_config(arg: str = "") -> ConfigDict:
    """Return the config; `arg` is "" for the published size, "tiny" for a laptop."""
    config = published("bart", "bart", "base")
    config.data.mixture = (
        tfds("wikipedia/20230601.en", train_split="train[:99%]", validation_split="train[99%:]"),
        tfds("pg19", column="book_text"),
        tfds("c4/realnewslike"),
        tfds("c4/webtextlike"),
    )
    config.data.mixture_power = 1.0  # in proportion to their sizes
    config.data.sequence_length = 512
    config.data.add_eos = False
    config.train.batch_size = 8000
    config.train.steps = 500_000
    optimizer = config.optimizer
    optimizer.learning_rate = 6e-4
    optimizer.schedule.name = "linear"
    optimizer.schedule.warmup = 24_000
    optimizer.schedule.final_fraction = 0.0
    optimizer.beta1 = 0.9
    optimizer.beta2 = 0.98
    optimizer.eps = 1e-6
    optimizer.weight_decay = 0.01
    config.train.clip_norm = None
    return sized(config, arg)
