"""MASS: the decoder predicts a masked half of each text (Song et al. 2019), 6 + 6 layers of 1,024.

    tlx train --config=configs/pretrain/mass.py
    tlx train --config=configs/pretrain/mass.py:tiny

Hardware: 8 V100 for some days (paper: 4 for fine-tuning). Expected after fine-tuning with back-translation:
WMT16 ro-en 39.1 BLEU. The paper's monolingual news of two languages is replaced by C4's and mC4's. Rows of
256, about 3,000 tokens a GPU.
"""

from ml_collections import ConfigDict

from tlx.recipes import published, sized, tfds


def get_config(arg: str = "") -> ConfigDict:
    """Return the config; `arg` is "" for the published size, "tiny" for a laptop."""
    config = published("mass", "mass", "base")
    config.data.mixture = (
        tfds("c4/realnewslike", language="en"),
        tfds("c4/multilingual", language="fr", train_split="fr", validation_split="fr-validation"),
    )
    config.data.sequence_length = 256
    config.train.batch_size = 128
    config.train.steps = 500_000
    optimizer = config.optimizer
    optimizer.learning_rate = 1e-4
    optimizer.schedule.name = "inverse_sqrt"
    optimizer.schedule.warmup = 4000
    optimizer.schedule.final_fraction = 0.0
    optimizer.beta1 = 0.9
    optimizer.beta2 = 0.98
    optimizer.eps = 1e-8
    optimizer.weight_decay = 0.0
    config.train.clip_norm = 5.0
    return sized(config, arg)
