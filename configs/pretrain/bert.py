"""BERT: masked tokens and next sentences (Devlin et al. 2019), base.

    tlx train --config=configs/pretrain/bert.py
    tlx train --config=configs/pretrain/bert.py:tiny

Hardware: 16 TPU v3 chips or 8 GPUs of 80 GB hold the batch; the paper had 4 TPU v2 boards for 4 days.
Expected after fine-tuning: MNLI 84.6, GLUE 79.6 (paper, base). The paper's BooksCorpus is not in TFDS: PG-19
stands in for it. It trains on rows of 128 for nine tenths of the steps; here all rows have 512. Its Adam
corrects no bias, tlx's does, which differs during the warm-up only. Loss and text of ":tiny": README.md
beside this file.
"""

from ml_collections import ConfigDict

from tlx.recipes import published, sized, tfds


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: "tiny", or nothing for the published size."""
    config = published("nsp", "bert", "base")
    config.objective.copies, config.objective.max_predictions = 10, 77
    config.data.mixture = (
        tfds("wikipedia/20230601.en", train_split="train[:99%]", validation_split="train[99%:]"),
        tfds("pg19", column="book_text"),
    )
    config.data.mixture_power = 1.0  # by their sizes
    config.data.sequence_length, config.train.batch_size, config.train.steps = 512, 256, 1_000_000
    optimizer = config.optimizer
    optimizer.learning_rate, optimizer.schedule.name = 1e-4, "linear"
    optimizer.schedule.warmup, optimizer.schedule.final_fraction = 10_000, 0.0
    optimizer.beta1, optimizer.beta2, optimizer.eps = 0.9, 0.999, 1e-6
    optimizer.weight_decay, config.train.clip_norm = 0.01, 1.0
    return sized(config, arg)
