"""UL2: seven denoisers, each row told in which mode it was noised (Tay et al. 2022), T5's base.

    tlx train --config=configs/pretrain/ul2.py
    tlx train --config=configs/pretrain/ul2.py:tiny

Hardware: 16 TPU v3 chips. Batch 128, 500,000 steps, C4, T5's optimizer, as in the paper's comparisons at
this size. Expected: between T5 and GPT on either's tasks (paper, table 2).
"""

from ml_collections import ConfigDict

from tlx.recipes import published, sized


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: "tiny", or nothing for the published size."""
    config = published("ul2", "t5-1.1", "base")
    config.model.dropout = config.model.attention.dropout = config.model.feedforward.dropout = 0.0
    config.tokenizer.model_type = "unigram"
    config.data.source, config.data.tfds.name = "tfds", "c4/en"
    config.data.sequence_length, config.train.batch_size, config.train.steps = 512, 128, 500_000
    optimizer = config.optimizer
    optimizer.name = "adafactor"
    optimizer.learning_rate, optimizer.schedule.name = 1e-2, "inverse_sqrt"
    optimizer.schedule.warmup, optimizer.schedule.final_fraction = 10_000, 0.0
    optimizer.weight_decay, config.train.clip_norm = 0.0, None
    return sized(config, arg)
