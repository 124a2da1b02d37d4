"""LaMDA: responses from what was said before, in one decoder (Thoppilan et al. 2022), 137B.

    tlx train --config=configs/pretrain/lamda.py
    tlx train --config=configs/pretrain/lamda.py:tiny

Hardware: the paper had 1,024 TPU v3 chips for 57.7 days. Its dialogues are not public: WikiDialog's, written
from Wikipedia by a model, stand in for them. It first trains on all its text as a causal model; its rates,
and the batch but for 256K tokens, are not printed: GPT-3's. ":tiny" answers a function's code with its
docstring.
"""

from ml_collections import ConfigDict

from tlx.recipes import published, tiny


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: "tiny", or nothing for the published size."""
    config = published("dialogue", "lamda", "137b")
    config.data.source, config.data.tfds.name = "tfds", "wiki_dialog/OQ"
    config.data.tfds.turns_column = "utterances"
    config.data.sequence_length, config.train.batch_size, config.train.steps = 1024, 256, 100_000
    config.objective.response_length = 256
    optimizer = config.optimizer
    optimizer.learning_rate, optimizer.schedule.name = 0.6e-4, "cosine"
    optimizer.schedule.warmup, optimizer.schedule.final_fraction = 1_000, 0.1
    optimizer.beta1, optimizer.beta2, optimizer.eps = 0.9, 0.95, 1e-8
    optimizer.weight_decay, config.train.clip_norm = 0.1, 1.0

    if arg == "tiny":
        config.objective.response_length = 32
        return tiny(config)
    return config
