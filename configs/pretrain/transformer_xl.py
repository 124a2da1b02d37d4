"""Transformer-XL: a text read window by window with memory of those before (Dai et al. 2019), base.

    tlx train --config=configs/pretrain/transformer_xl.py
    tlx train --config=configs/pretrain/transformer_xl.py:tiny

Hardware: 4 GPUs of 12 GB or more for some days. Expected: a perplexity of 24.0 per word on WikiText-103. The
paper's vocabulary is its 267,735 words by frequency, on which the clusters of the adaptive softmax are cut;
here it is as many SentencePiece pieces, so that text is lossless and perplexities are comparable per byte
only. 64 rows, where the paper's 60 do not divide over 8 devices, for as many tokens. The data set comes
through TFDS's bridge: pip install datasets.
"""

from ml_collections import ConfigDict

from tlx.recipes import published, sized


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: "tiny", or nothing for the published size."""
    config = published("recurrent_lm", "transformer-xl", "base")
    config.objective.mem_len = 150
    config.data.source, config.data.tfds.name = "tfds", "huggingface:wikitext/wikitext-103-raw-v1"
    config.data.sequence_length, config.train.batch_size, config.train.steps = 150, 64, 187_500
    optimizer = config.optimizer
    optimizer.learning_rate, optimizer.schedule.name = 2.5e-4, "cosine"
    optimizer.schedule.warmup, optimizer.schedule.final_fraction = 0, 0.0
    optimizer.beta1, optimizer.beta2, optimizer.eps = 0.9, 0.999, 1e-8
    optimizer.weight_decay, config.train.clip_norm = 0.0, 0.25
    return sized(config, arg)
