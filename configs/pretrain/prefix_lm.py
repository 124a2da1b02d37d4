"""Prefix language modelling in one decoder, as compared in T5's paper (Raffel et al. 2020, section 3.2).

    tlx train --config=configs/pretrain/prefix_lm.py
    tlx train --config=configs/pretrain/prefix_lm.py:tiny

Twelve layers of T5's base block. Hardware: 16 TPU v3 chips, two days. Batch, steps and optimizer: as
t5.py. Expected: GLUE 81.82, where the encoder-decoder with the same objective has 82.68 (paper, tables 2
and 4).
"""

from ml_collections import ConfigDict

from tlx.recipes import published, sized


def get_config(arg: str = "") -> ConfigDict:
    """Return the config; `arg` is "" for the published size, "tiny" for a laptop."""
    config = published("prefix_lm", "t5", "base")
    config.model.kind = "decoder"
    config.tokenizer.model_type = "unigram"
    config.data.source = "tfds"
    config.data.tfds.name = "c4/en"
    config.data.sequence_length = 512
    config.train.batch_size = 128
    config.train.steps = 2**19
    optimizer = config.optimizer
    optimizer.name = "adafactor"
    optimizer.learning_rate = 1e-2
    optimizer.schedule.name = "inverse_sqrt"
    optimizer.schedule.warmup = 10_000
    optimizer.schedule.warmup_shape = "constant"
    optimizer.schedule.final_fraction = 0.0
    optimizer.weight_decay = 0.0
    config.train.clip_norm = None
    return sized(config, arg)
