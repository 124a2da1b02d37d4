"""RoBERTa: masked tokens with dynamic masking (Liu et al. 2019), base.

    tlx train --config=configs/pretrain/roberta.py
    tlx train --config=configs/pretrain/roberta.py:tiny

Hardware: a batch of 8,192 rows of 512 on 64 chips or more; train.microbatches on fewer. The paper had 1,024
V100 for a day. Expected after fine-tuning: MNLI 87.6 (base). Of its 160 GB of text CC-News, OpenWebText and
Stories are not in TFDS; C4's two subsets modelled on the first two are.
"""

from ml_collections import ConfigDict

from tlx.recipes import published, sized, tfds


def get_config(arg: str = "") -> ConfigDict:
    """Return the config; `arg` is "" for the published size, "tiny" for a laptop."""
    config = published("mlm", "roberta", "base")
    config.objective.recipe = "roberta"
    config.data.mixture = (
        tfds("wikipedia/20230601.en", train_split="train[:99%]", validation_split="train[99%:]"),
        tfds("pg19", column="book_text"),
        tfds("c4/realnewslike"),
        tfds("c4/webtextlike"),
    )
    config.data.mixture_power = 1.0  # in proportion to their sizes
    config.data.sequence_length = 512
    config.train.batch_size = 8192
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
