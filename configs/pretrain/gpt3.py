"""GPT-3: causal language modelling with alternating dense and banded attention (Brown et al. 2020), small.

    tlx train --config=configs/pretrain/gpt3.py
    tlx train --config=configs/pretrain/gpt3.py:tiny

Hardware: 8 GPUs of 80 GB or 16 TPU v4 chips for some days. Batches of half a million tokens, 300 billion in
all. The paper's learning rate decays over 260 billion tokens and then stays constant, and its batch grows
over the first 4 billion. Here the learning rate decays until the end, and the batch has its final size
throughout. Text: C4 and the parts of the paper's mixture that TFDS has.
"""

from ml_collections import ConfigDict

from tlx.recipes import published, sized, tfds


def get_config(arg: str = "") -> ConfigDict:
    """Return the config; `arg` is "" for the published size, "tiny" for a laptop."""
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
    config.data.sequence_length = 2048
    config.train.batch_size = 256
    config.train.steps = 572_205
    optimizer = config.optimizer
    optimizer.learning_rate = 6e-4
    optimizer.schedule.name = "cosine"
    optimizer.schedule.warmup = 715
    optimizer.schedule.final_fraction = 0.1
    optimizer.beta1 = 0.9
    optimizer.beta2 = 0.95
    optimizer.eps = 1e-8
    optimizer.weight_decay = 0.1
    config.train.clip_norm = 1.0
    return sized(config, arg)
