"""GPT-3: causal language modelling with dense and banded attention in turn (Brown et al. 2020), small.

    tlx train --config=configs/pretrain/gpt3.py
    tlx train --config=configs/pretrain/gpt3.py:tiny

Hardware: 8 GPUs of 80 GB or 16 TPU v4 chips for some days. Batches of half a million tokens, 300 billion in
all. The paper's rate falls over 260 billion tokens and then stays, its batch grows over the first 4 billion:
here the rate falls until the end, and the batch is the final one throughout. Text: C4 and what else of its
mixture TFDS has.
"""

from ml_collections import ConfigDict

from tlx.recipes import published, sized, tfds


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: "tiny", or nothing for the published size."""
    config = published("clm", "gpt3", "small")
    config.data.mixture = (
        tfds("c4/en", weight=0.6),
        tfds("c4/webtextlike", weight=0.22),
        tfds("pg19", column="book_text", weight=0.16),
        tfds(
            "wikipedia/20230601.en",
            weight=0.03,
            train_split="train[:99%]",
            validation_split="train[99%:]",
        ),
    )
    config.data.sequence_length, config.train.batch_size, config.train.steps = 2048, 256, 572_205
    optimizer = config.optimizer
    optimizer.learning_rate, optimizer.schedule.name = 6e-4, "cosine"
    optimizer.schedule.warmup, optimizer.schedule.final_fraction = 715, 0.1
    optimizer.beta1, optimizer.beta2, optimizer.eps = 0.9, 0.95, 1e-8
    optimizer.weight_decay, config.train.clip_norm = 0.1, 1.0
    return sized(config, arg)
