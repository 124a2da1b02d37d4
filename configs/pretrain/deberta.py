"""DeBERTa: masked tokens, disentangled attention, absolute positions in the mask decoder alone (He et al.
2021), base.

    tlx train --config=configs/pretrain/deberta.py
    tlx train --config=configs/pretrain/deberta.py:tiny

Hardware: a batch of 2,048 rows of 512 on 16 chips or more; the paper had 64 V100 for ten days (base).
Expected after fine-tuning: MNLI 88.8 (base). Of its 78 GB of text OpenWebText and Stories are not in TFDS;
C4's subset modelled on the former is. The paper's code masks one token of each window of six and leaves the ends of
rows unmasked: objective.unit = "window".
"""

from ml_collections import ConfigDict

from tlx.recipes import published, tfds, tiny


def get_config(arg: str = "") -> ConfigDict:
    """Return the config; `arg` is "" for the published size, "tiny" for a laptop."""
    config = published("mlm", "deberta", "base")
    config.objective.mask_decoder = 2
    config.data.mixture = (
        tfds("wikipedia/20230601.en", train_split="train[:99%]", validation_split="train[99%:]"),
        tfds("pg19", column="book_text"),
        tfds("c4/webtextlike"),
    )
    config.data.mixture_power = 1.0  # in proportion to their sizes
    config.data.sequence_length = 512
    config.train.batch_size = 2048
    config.train.steps = 1_000_000
    optimizer = config.optimizer
    optimizer.learning_rate = 2e-4
    optimizer.schedule.name = "linear"
    optimizer.schedule.warmup = 10_000
    optimizer.schedule.final_fraction = 0.0
    optimizer.schedule.decay_from = "start"
    optimizer.beta1 = 0.9
    optimizer.beta2 = 0.999
    optimizer.eps = 1e-6
    optimizer.bias_correction = False
    optimizer.weight_decay = 0.01
    config.train.clip_norm = 1.0
    return tiny(config) if arg == "tiny" else config
