"""RoBERTa: masked tokens, drawn anew each time (Liu et al. 2019), base.

    tlx train --config=configs/pretrain/roberta.py
    tlx train --config=configs/pretrain/roberta.py:tiny

Hardware: a batch of 8,192 rows of 512 on 64 chips or more; train.microbatches on fewer. The paper had 1,024
V100 for a day. Expected after fine-tuning: MNLI 87.6 (base). Of its 160 GB of text CC-News, OpenWebText and
Stories are not in TFDS; C4's two subsets made after the former are.
"""

from ml_collections import ConfigDict

from tlx.recipes import published, sized, tfds


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: "tiny", or nothing for the published size."""
    config = published("mlm", "roberta", "base")
    config.objective.recipe = "roberta"
    config.data.mixture = (
        tfds("wikipedia/20230601.en", train_split="train[:99%]", validation_split="train[99%:]"),
        tfds("pg19", column="book_text"),
        tfds("c4/realnewslike"),
        tfds("c4/webtextlike"),
    )
    config.data.mixture_power = 1.0  # by their sizes
    config.data.sequence_length, config.train.batch_size, config.train.steps = 512, 8192, 500_000
    optimizer = config.optimizer
    optimizer.learning_rate, optimizer.schedule.name = 6e-4, "linear"
    optimizer.schedule.warmup, optimizer.schedule.final_fraction = 24_000, 0.0
    optimizer.beta1, optimizer.beta2, optimizer.eps = 0.9, 0.98, 1e-6
    optimizer.weight_decay, config.train.clip_norm = 0.01, None
    return sized(config, arg)
