"""BlenderBot: responses to the preceding turns, in an encoder-decoder (Roller et al. 2021), 3B.

    tlx train --config=configs/pretrain/blenderbot.py
    tlx train --config=configs/pretrain/blenderbot.py:tiny

Hardware: a batch of 2,048 on 64 chips or more. Its 1.5 billion comments of Reddit are not in TFDS:
WikiDialog's dialogues, written from Wikipedia by a model, replace them. Contexts and responses of 128
tokens, as in the paper. ":tiny" answers a function's code with its docstring.
"""

from ml_collections import ConfigDict

from tlx.recipes import published, tiny


def get_config(arg: str = "") -> ConfigDict:
    """Return the config; `arg` is "" for the published size, "tiny" for a laptop."""
    config = published("seq2seq_dialogue", "blenderbot", "3b")
    config.data.source = "tfds"
    config.data.tfds.name = "wiki_dialog/OQ"
    config.data.tfds.turns_column = "utterances"
    config.data.sequence_length = 128
    config.train.batch_size = 2048
    config.train.steps = 200_000
    optimizer = config.optimizer
    optimizer.learning_rate = 2e-4
    optimizer.schedule.name = "inverse_sqrt"
    optimizer.schedule.warmup = 5_000
    optimizer.schedule.final_fraction = 0.0
    optimizer.beta1 = 0.9
    optimizer.beta2 = 0.98
    optimizer.eps = 1e-6
    optimizer.weight_decay = 0.01
    config.train.clip_norm = 0.1
    return tiny(config) if arg == "tiny" else config
