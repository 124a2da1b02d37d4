"""BERT: masked tokens and next sentence prediction (Devlin et al. 2019), base.

    tlx train --config=configs/pretrain/bert.py
    tlx train --config=configs/pretrain/bert.py:tiny

Hardware: 16 TPU v3 chips or 8 GPUs of 80 GB hold the batch; the paper had 4 TPU v2 boards for 4 days.
Expected after fine-tuning: MNLI 84.6, GLUE 79.6 (paper, base). The paper's BooksCorpus is not in TFDS: PG-19
replaces it. The paper trains on rows of 128 for nine tenths of the steps; here all rows have 512. As in BERT's
code, Adam has no bias correction, and the decay counts from the first step, so that the rate drops by 1% when
the warm-up ends. README.md beside this file has the loss and text of ":tiny", whose optimizer is another.
"""

from ml_collections import ConfigDict

from tlx.recipes import published, sized, tfds


def get_config(arg: str = "") -> ConfigDict:
    """Return the config; `arg` is "" for the published size, "tiny" for a laptop."""
    config = published("nsp", "bert", "base")
    config.objective.copies = 10
    config.objective.max_predictions = 77
    config.data.mixture = (
        tfds("wikipedia/20230601.en", train_split="train[:99%]", validation_split="train[99%:]"),
        tfds("pg19", column="book_text"),
    )
    config.data.mixture_power = 1.0  # in proportion to their sizes
    config.data.sequence_length = 512
    config.train.batch_size = 256
    config.train.steps = 1_000_000
    optimizer = config.optimizer
    optimizer.learning_rate = 1e-4
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
