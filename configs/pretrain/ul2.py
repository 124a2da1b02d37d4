"""UL2: seven denoisers, with a mode token in each row (Tay et al. 2022), T5's base size.

    tlx train --config=configs/pretrain/ul2.py
    tlx train --config=configs/pretrain/ul2.py:tiny

Hardware: 16 TPU v3 chips. Batch 128, 500,000 steps, C4, T5's optimizer, as in the paper's comparisons at
this size. Expected: between T5 and GPT on the tasks of either (paper, table 2).
"""

from ml_collections import ConfigDict

from tlx.recipes import published, sized


def get_config(arg: str = "") -> ConfigDict:
    """Return the config; `arg` is "" for the published size, "tiny" for a laptop."""
    config = published("ul2", "t5-1.1", "base")
    config.model.dropout = 0.0
    config.model.attention.dropout = 0.0
    config.model.feedforward.dropout = 0.0
    config.tokenizer.model_type = "unigram"
    config.data.source = "tfds"
    config.data.tfds.name = "c4/en"
    config.data.sequence_length = 512
    config.train.batch_size = 128
    config.train.steps = 500_000
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
