"""DeBERTa: masked tokens, disentangled attention, places in the mask decoder alone (He et al. 2021), base.

    tlx train --config=configs/pretrain/deberta.py
    tlx train --config=configs/pretrain/deberta.py:tiny

Hardware: a batch of 2,048 rows of 512 on 16 chips or more; the paper had 64 V100 for ten days (base).
Expected after fine-tuning: MNLI 88.8 (base). Of its 78 GB of text OpenWebText and Stories are not in TFDS;
the subset of C4 made after the former is.
"""

from ml_collections import ConfigDict

from tlx.recipes import published, tfds, tiny


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: "tiny", or nothing for the published size."""
    config = published("mlm", "deberta", "base")
    config.objective.mask_decoder = 2
    config.data.mixture = (
        tfds("wikipedia/20230601.en", train_split="train[:99%]", validation_split="train[99%:]"),
        tfds("pg19", column="book_text"),
        tfds("c4/webtextlike"),
    )
    config.data.mixture_power = 1.0  # by their sizes
    config.data.sequence_length, config.train.batch_size, config.train.steps = 512, 2048, 1_000_000
    optimizer = config.optimizer
    optimizer.learning_rate, optimizer.schedule.name = 2e-4, "linear"
    optimizer.schedule.warmup, optimizer.schedule.final_fraction = 10_000, 0.0
    optimizer.beta1, optimizer.beta2, optimizer.eps = 0.9, 0.999, 1e-6
    optimizer.weight_decay, config.train.clip_norm = 0.01, 1.0
    return tiny(config) if arg == "tiny" else config
