"""ELMo: two language models, from the left and from the right, over characters (Peters et al. 2018).

    tlx train --config=configs/pretrain/elmo.py
    tlx train --config=configs/pretrain/elmo.py:tiny

Hardware: 3 GPUs of 11 GB for two weeks in the paper. Expected: a perplexity of 39.7 per word, the mean of
both directions. The official options: 128 rows of 20 tokens per GPU, 10 epochs over 768,648,884 words,
Adagrad at a rate of .2, 8,192 sampled ids; 793,471 SentencePiece pieces stand for the benchmark's words.
"""

from ml_collections import ConfigDict

from tlx.recipes import published, sized


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: "tiny", or nothing for the published size."""
    config = published("bilm", "elmo", "base")
    config.objective.num_sampled = 8192
    config.data.source, config.data.tfds.name = "tfds", "lm1b"
    config.data.sequence_length, config.train.batch_size, config.train.steps = 20, 384, 1_000_845
    optimizer = config.optimizer
    optimizer.name, optimizer.learning_rate = "adagrad", 0.2
    optimizer.schedule.name, optimizer.schedule.warmup = "constant", 0
    optimizer.weight_decay, config.train.clip_norm = 0.0, 10.0
    if arg == "tiny":
        config.objective.num_sampled, config.objective.max_characters = 0, 8  # of a byte's, three
    return sized(config, arg)
