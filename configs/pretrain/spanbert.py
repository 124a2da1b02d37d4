"""SpanBERT: masked spans, and each token of them from the span's edges (Joshi et al. 2020), base.

    tlx train --config=configs/pretrain/spanbert.py
    tlx train --config=configs/pretrain/spanbert.py:tiny

Hardware: 16 TPU v3 chips or 8 GPUs of 80 GB; the paper had 32 V100 for 15 days (large). Expected after fine-
tuning (large): SQuAD 1.1 F1 94.6. Text as BERT's; one text a row.
"""

from ml_collections import ConfigDict

from tlx.recipes import published, sized, tfds


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: "tiny", or nothing for the published size."""
    config = published("span_boundary", "spanbert", "base")
    config.data.mixture = (
        tfds("wikipedia/20230601.en", train_split="train[:99%]", validation_split="train[99%:]"),
        tfds("pg19", column="book_text"),
    )
    config.data.mixture_power = 1.0  # by their sizes
    config.data.sequence_length, config.train.batch_size, config.train.steps = 512, 256, 2_400_000
    optimizer = config.optimizer
    optimizer.learning_rate, optimizer.schedule.name = 1e-4, "linear"
    optimizer.schedule.warmup, optimizer.schedule.final_fraction = 10_000, 0.0
    optimizer.beta1, optimizer.beta2, optimizer.eps = 0.9, 0.999, 1e-8
    optimizer.weight_decay, config.train.clip_norm = 0.1, 1.0
    return sized(config, arg)
