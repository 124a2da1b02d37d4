"""Marian: translation, supervised from the first step (Junczys-Dowmunt et al. 2018), Vaswani et al.'s base.

    tlx train --config=configs/pretrain/marian.py
    tlx train --config=configs/pretrain/marian.py:tiny

Hardware: 4 GPUs for a day or two. Expected: WMT14 en-de about 27 BLEU. Smoothed labels, rows of 128. ":tiny"
writes docstrings of Python functions from their code.
"""

from ml_collections import ConfigDict

from tlx.recipes import published, sized


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: "tiny", or nothing for the published size."""
    config = published("text_to_text", "marian", "base")
    config.tokenizer.model_type = "unigram"
    config.data.source, config.data.tfds.name = "tfds", "wmt14_translate/de-en"
    config.data.language, config.data.target_language = "en", "de"
    config.data.tfds.column, config.data.tfds.target_column = "en", "de"
    config.loss.label_smoothing = 0.1
    config.data.sequence_length, config.train.batch_size, config.train.steps = 128, 512, 300_000
    optimizer = config.optimizer
    optimizer.learning_rate, optimizer.schedule.name = 3e-4, "inverse_sqrt"
    optimizer.schedule.warmup, optimizer.schedule.final_fraction = 16_000, 0.0
    optimizer.beta1, optimizer.beta2, optimizer.eps = 0.9, 0.98, 1e-9
    optimizer.weight_decay, config.train.clip_norm = 0.0, 5.0
    return sized(config, arg)
