"""ELMo: a forward and a backward language model over characters (Peters et al. 2018).

    tlx train --config=configs/pretrain/elmo.py
    tlx train --config=configs/pretrain/elmo.py:tiny

Hardware: 3 GPUs of 11 GB for two weeks in the paper. Expected: a perplexity of 39.7 per word, the mean of
both directions. The official options: 128 rows of 20 tokens per GPU, 10 epochs over 768,648,884 words,
Adagrad with learning rate 0.2, 8,192 sampled ids; 793,471 SentencePiece pieces replace the benchmark's words.
"""

from ml_collections import ConfigDict

from tlx.recipes import published, sized


def get_config(arg: str = "") -> ConfigDict:
    """Return the config; `arg` is "" for the published size, "tiny" for a laptop."""
    config = published("bilm", "elmo", "base")
    config.objective.num_sampled = 8192
    config.data.source = "tfds"
    config.data.tfds.name = "lm1b"
    config.data.sequence_length = 20
    config.train.batch_size = 384
    config.train.steps = 1_000_845
    optimizer = config.optimizer
    optimizer.name = "adagrad"
    optimizer.learning_rate = 0.2
    optimizer.schedule.name = "constant"
    optimizer.schedule.warmup = 0
    optimizer.weight_decay = 0.0
    config.train.clip_norm = 10.0
    if arg == "tiny":
        config.objective.num_sampled = 0
        config.objective.max_characters = 8  # a piece of one byte has three
    return sized(config, arg)
