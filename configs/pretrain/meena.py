"""Meena: responses to up to seven turns before them, by the Evolved Transformer (Adiwardana et al. 2020), 2.6B.

    tlx train --config=configs/pretrain/meena.py
    tlx train --config=configs/pretrain/meena.py:tiny
    tlx generate RUN --prompt='...' --best_of=20 --temperature=0.88 --max_tokens=128

Hardware: 64 chips or more; the paper took 2,048 cores of TPU v3 for 30 days. Its 867 million pairs of social media
are not public: WikiDialog's dialogues, written from Wikipedia by a model, replace them. Contexts and responses of 128
tokens; Adafactor, at 0.01 for 10,000 steps and falling as 1 / sqrt(step) then. The last line is the paper's decoding,
sample-and-rank: the likeliest of 20 samples. ":tiny" answers a function's code with its docstring.
"""

from ml_collections import ConfigDict

from tlx.recipes import published, tiny


def get_config(arg: str = "") -> ConfigDict:
    """Return the config; `arg` is "" for the published size, "tiny" for a laptop."""
    config = published("seq2seq_dialogue", "meena", "2.6b")
    config.data.source = "tfds"
    config.data.tfds.name = "wiki_dialog/OQ"
    config.data.tfds.turns_column = "utterances"
    config.data.sequence_length = 128
    config.train.batch_size = 2048
    config.train.steps = 200_000
    optimizer = config.optimizer
    optimizer.name = "adafactor"
    optimizer.learning_rate = 1e-2
    optimizer.weight_decay = 0.0
    optimizer.schedule.name = "inverse_sqrt"
    optimizer.schedule.warmup = 10_000
    optimizer.schedule.warmup_shape = "constant"
    optimizer.schedule.final_fraction = 0.0
    return tiny(config) if arg == "tiny" else config
