"""Marian: supervised translation (Junczys-Dowmunt et al. 2018), the base size of Vaswani et al.

    tlx train --config=configs/pretrain/marian.py
    tlx train --config=configs/pretrain/marian.py:tiny

Hardware: 4 GPUs for a day or two. Expected: WMT14 en-de about 27 BLEU. Label smoothing, rows of 128. ":tiny"
writes docstrings of Python functions from their code.
"""

from ml_collections import ConfigDict

from tlx.recipes import published, sized


def get_config(arg: str = "") -> ConfigDict:
    """Return the config; `arg` is "" for the published size, "tiny" for a laptop."""
    config = published("text_to_text", "marian", "base")
    config.tokenizer.model_type = "unigram"
    config.data.source = "tfds"
    config.data.tfds.name = "wmt14_translate/de-en"
    config.data.language = "en"
    config.data.target_language = "de"
    config.data.tfds.column = "en"
    config.data.tfds.target_column = "de"
    config.loss.label_smoothing = 0.1
    config.data.sequence_length = 128
    config.train.batch_size = 512
    config.train.steps = 300_000
    optimizer = config.optimizer
    optimizer.learning_rate = 3e-4
    optimizer.schedule.name = "inverse_sqrt"
    optimizer.schedule.warmup = 16_000
    optimizer.schedule.final_fraction = 0.0
    optimizer.beta1 = 0.9
    optimizer.beta2 = 0.98
    optimizer.eps = 1e-9
    optimizer.weight_decay = 0.0
    config.train.clip_norm = 5.0
    return sized(config, arg)
