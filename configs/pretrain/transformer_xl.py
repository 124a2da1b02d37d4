"""Transformer-XL: windows of a text with a memory of the preceding ones (Dai et al. 2019), base.

    tlx train --config=configs/pretrain/transformer_xl.py
    tlx train --config=configs/pretrain/transformer_xl.py:tiny

Hardware: 4 GPUs of 12 GB or more for some days. Expected: a perplexity of 24.0 per word on WikiText-103. The
paper's vocabulary is the text's 267,735 words by frequency, which the adaptive softmax is clustered by.
Here it is as many SentencePiece pieces, so that text is lossless and perplexities are comparable per byte
only. 64 rows for as many tokens, because the paper's 60 do not divide over 8 devices. The data set needs
TFDS's bridge: pip install datasets.
"""

from ml_collections import ConfigDict

from tlx.recipes import published, sized


def get_config(arg: str = "") -> ConfigDict:
    """Return the config; `arg` is "" for the published size, "tiny" for a laptop."""
    config = published("recurrent_lm", "transformer-xl", "base")
    config.objective.mem_len = 150
    config.data.source = "tfds"
    config.data.tfds.name = "huggingface:wikitext/wikitext-103-raw-v1"
    config.data.sequence_length = 150
    config.train.batch_size = 64
    config.train.steps = 187_500
    optimizer = config.optimizer
    optimizer.learning_rate = 2.5e-4
    optimizer.schedule.name = "cosine"
    optimizer.schedule.warmup = 0
    optimizer.schedule.final_fraction = 0.0
    optimizer.beta1 = 0.9
    optimizer.beta2 = 0.999
    optimizer.eps = 1e-8
    optimizer.weight_decay = 0.0
    config.train.clip_norm = 0.25
    return sized(config, arg)
