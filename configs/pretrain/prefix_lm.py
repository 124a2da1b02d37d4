"""Prefix language modelling in one decoder, as T5's paper compares it (Raffel et al. 2020, section 3.2).

    tlx train --config=configs/pretrain/prefix_lm.py
    tlx train --config=configs/pretrain/prefix_lm.py:tiny

T5's base block, twelve layers of it. Hardware: 16 TPU v3 chips, two days. Batch, steps and optimizer as
t5.py; expected: GLUE 81.82 where the encoder-decoder with the same objective has 82.68 (paper, table 2 and
4).
"""

from ml_collections import ConfigDict

from tlx.recipes import published, sized


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: "tiny", or nothing for the published size."""
    config = published("prefix_lm", "t5", "base")
    config.model.kind = "decoder"
    config.tokenizer.model_type = "unigram"
    config.data.source, config.data.tfds.name = "tfds", "c4/en"
    config.data.sequence_length, config.train.batch_size, config.train.steps = 512, 128, 2**19
    optimizer = config.optimizer
    optimizer.name = "adafactor"
    optimizer.learning_rate, optimizer.schedule.name = 1e-2, "inverse_sqrt"
    optimizer.schedule.warmup, optimizer.schedule.final_fraction = 10_000, 0.0
    optimizer.weight_decay, config.train.clip_norm = 0.0, None
    return sized(config, arg)
