"""SpanBERT: masked spans, whose tokens are also predicted from the span's boundary (Joshi et al. 2020), base.

    tlx train --config=configs/pretrain/spanbert.py
    tlx train --config=configs/pretrain/spanbert.py:tiny

Hardware: 16 TPU v3 chips or 8 GPUs of 80 GB; the paper had 32 V100 for 15 days (large). Expected after fine-
tuning (large): SQuAD 1.1 F1 94.6. Text: as BERT's, one text a row.
"""

from ml_collections import ConfigDict

from tlx.recipes import published, sized, tfds


def get_config(arg: str = "") -> ConfigDict:
    """Return the config; `arg` is "" for the published size, "tiny" for a laptop."""
    config = published("span_boundary", "spanbert", "base")
    config.data.mixture = (
        tfds("wikipedia/20230601.en", train_split="train[:99%]", validation_split="train[99%:]"),
        tfds("pg19", column="book_text"),
    )
    config.data.mixture_power = 1.0  # in proportion to their sizes
    config.data.sequence_length = 512
    config.train.batch_size = 256
    config.train.steps = 2_400_000
    optimizer = config.optimizer
    optimizer.learning_rate = 1e-4
    optimizer.schedule.name = "linear"
    optimizer.schedule.warmup = 10_000
    optimizer.schedule.final_fraction = 0.0
    optimizer.beta1 = 0.9
    optimizer.beta2 = 0.999
    optimizer.eps = 1e-8
    optimizer.weight_decay = 0.01
    config.train.clip_norm = 1.0
    return sized(config, arg)
