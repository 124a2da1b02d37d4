"""A mixture of objectives: each row of a batch half causal, half prefix language modelling, in GPT-2 small.

    tlx train --config=configs/pretrain/mixture.py
    tlx train --config=configs/pretrain/mixture.py:tiny

Hardware: as gpt2.py. No paper has this mixture as it stands; batch, rate and steps are gpt2.py's, the rows
of a bundle together as long as two of its rows. The metrics of each part are apart: clm/loss,
prefix_lm/loss.
"""

from ml_collections import ConfigDict

from tlx.recipes import published, sized


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: "tiny", or nothing for the published size."""
    config = published("mixture", "gpt2", "small")
    config.data.source, config.data.tfds.name = "tfds", "c4/webtextlike"
    config.data.sequence_length, config.train.batch_size, config.train.steps = 1024, 256, 572_205
    optimizer = config.optimizer
    optimizer.learning_rate, optimizer.schedule.name = 6e-4, "cosine"
    optimizer.schedule.warmup, optimizer.schedule.final_fraction = 715, 0.1
    optimizer.beta1, optimizer.beta2, optimizer.eps = 0.9, 0.95, 1e-8
    optimizer.weight_decay, config.train.clip_norm = 0.1, 1.0
    return sized(config, arg)
