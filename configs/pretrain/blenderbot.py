"""BlenderBot: responses from what was said before, in an encoder-decoder (Roller et al. 2021), 3B.

    tlx train --config=configs/pretrain/blenderbot.py
    tlx train --config=configs/pretrain/blenderbot.py:tiny

Hardware: a batch of 2,048 on 64 chips or more. Its 1.5 billion comments of Reddit are not in TFDS:
WikiDialog's dialogues, written from Wikipedia by a model, stand in for them. Contexts and responses of 128
tokens, as in the paper. ":tiny" answers a function's code with its docstring.
"""

from ml_collections import ConfigDict

from tlx.recipes import published, tiny


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: "tiny", or nothing for the published size."""
    config = published("seq2seq_dialogue", "blenderbot", "3b")
    config.data.source, config.data.tfds.name = "tfds", "wiki_dialog/OQ"
    config.data.tfds.turns_column = "utterances"
    config.data.sequence_length, config.train.batch_size, config.train.steps = 128, 2048, 200_000
    optimizer = config.optimizer
    optimizer.learning_rate, optimizer.schedule.name = 2e-4, "inverse_sqrt"
    optimizer.schedule.warmup, optimizer.schedule.final_fraction = 5_000, 0.0
    optimizer.beta1, optimizer.beta2, optimizer.eps = 0.9, 0.98, 1e-6
    optimizer.weight_decay, config.train.clip_norm = 0.01, 0.1
    return tiny(config) if arg == "tiny" else config
