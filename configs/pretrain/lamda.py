"""LaMDA: responses to the preceding turns, in one decoder (Thoppilan et al. 2022), 137B.

    tlx train --config=configs/pretrain/lamda.py
    tlx train --config=configs/pretrain/lamda.py:tiny

Hardware: the paper had 1,024 TPU v3 chips for 57.7 days. Its dialogues are not public: WikiDialog's, written
from Wikipedia by a model, replace them. It first trains on all its text as a causal model. Of batch and
learning rate the paper states only 256K tokens a batch; the learning rate is GPT-3's. ":tiny" answers a
function's code with its docstring.
"""

from ml_collections import ConfigDict

from tlx.recipes import published, tiny


def get_config(arg: str = "") -> ConfigDict:
    """Return the config; `arg` is "" for the published size, "tiny" for a laptop."""
    config = published("dialogue", "lamda", "137b")
    config.data.source = "tfds"
    config.data.tfds.name = "wiki_dialog/OQ"
    config.data.tfds.turns_column = "utterances"
    config.data.sequence_length = 1024
    config.train.batch_size = 256
    config.train.steps = 100_000
    config.objective.response_length = 256
    optimizer = config.optimizer
    optimizer.learning_rate = 0.6e-4
    optimizer.schedule.name = "cosine"
    optimizer.schedule.warmup = 1_000
    optimizer.schedule.final_fraction = 0.1
    optimizer.beta1 = 0.9
    optimizer.beta2 = 0.95
    optimizer.eps = 1e-8
    optimizer.weight_decay = 0.1
    config.train.clip_norm = 1.0

    if arg == "tiny":
        config.objective.response_length = 32
        return tiny(config)
    return config
