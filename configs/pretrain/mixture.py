"""A mixture of objectives: half causal, half prefix language modelling in each row, GPT-2 small.

    tlx train --config=configs/pretrain/mixture.py
    tlx train --config=configs/pretrain/mixture.py:tiny

Hardware: as gpt2.py. The mixture is of no paper; batch size, learning rate and steps are gpt2.py's, the
rows of a bundle together as long as two of its rows. Each part has metrics of its own: clm/loss,
prefix_lm/loss.
"""

from ml_collections import ConfigDict

from tlx.recipes import published, sized


def get_config(arg: str = "") -> ConfigDict:
    """Return the config; `arg` is "" for the published size, "tiny" for a laptop."""
    config = published("mixture", "gpt2", "small")
    config.data.source = "tfds"
    config.data.tfds.name = "c4/webtextlike"
    config.data.sequence_length = 1024
    config.train.batch_size = 256
    config.train.steps = 572_205
    optimizer = config.optimizer
    optimizer.learning_rate = 6e-4
    optimizer.schedule.name = "cosine"
    optimizer.schedule.warmup = 715
    optimizer.schedule.final_fraction = 0.1
    optimizer.beta1 = 0.9
    optimizer.beta2 = 0.95
    optimizer.eps = 1e-8
    optimizer.weight_decay = 0.1
    config.train.clip_norm = 1.0
    return sized(config, arg)
