"""MASS: a hidden half of each text, written by the decoder (Song et al. 2019), 6 + 6 layers of 1,024.

    tlx train --config=configs/pretrain/mass.py
    tlx train --config=configs/pretrain/mass.py:tiny

Hardware: 8 V100 for some days (paper: 4 for fine-tuning). Expected after fine-tuning with back-translation:
WMT16 ro-en 39.1 BLEU. Monolingual news of two languages; C4's and mC4's stand in. Rows of 256, about 3,000
tokens a GPU.
"""

from ml_collections import ConfigDict

from tlx.recipes import published, sized, tfds


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: "tiny", or nothing for the published size."""
    config = published("mass", "mass", "base")
    config.data.mixture = (
        tfds("c4/realnewslike", language="en"),
        tfds("c4/multilingual", language="fr", train_split="fr", validation_split="fr-validation"),
    )
    config.data.sequence_length, config.train.batch_size, config.train.steps = 256, 128, 500_000
    optimizer = config.optimizer
    optimizer.learning_rate, optimizer.schedule.name = 1e-4, "inverse_sqrt"
    optimizer.schedule.warmup, optimizer.schedule.final_fraction = 4000, 0.0
    optimizer.beta1, optimizer.beta2, optimizer.eps = 0.9, 0.98, 1e-8
    optimizer.weight_decay, config.train.clip_norm = 0.0, 5.0
    return sized(config, arg)
