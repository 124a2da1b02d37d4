"""XLNet: permutation language modelling, two streams, memory of the preceding text (Yang et al. 2019), base.

    tlx train --config=configs/pretrain/xlnet.py
    tlx train --config=configs/pretrain/xlnet.py:tiny

Hardware: a batch of 2,048 rows of 512 on 64 chips; the paper had 512 TPU v3 chips for 5.5 days (large).
Expected after fine-tuning (large): MNLI 90.8, RACE 81.75. Half of the rows read the text backwards, as in the
official runs. Of the paper's text, Giga5 and ClueWeb are not in TFDS: C4 replaces them.
"""

from ml_collections import ConfigDict

from tlx.recipes import published, sized, tfds


def get_config(arg: str = "") -> ConfigDict:
    """Return the config; `arg` is "" for the published size, "tiny" for a laptop."""
    config = published("plm", "xlnet", "base")
    config.objective.pairs = True
    config.objective.bi_data = True
    config.objective.num_predict = 85
    config.tokenizer.model_type = "unigram"
    config.data.mixture = (
        tfds("wikipedia/20230601.en", train_split="train[:99%]", validation_split="train[99%:]"),
        tfds("pg19", column="book_text"),
        tfds("c4/en"),
    )
    config.data.mixture_power = 1.0  # in proportion to their sizes
    config.data.sequence_length = 512
    config.train.batch_size = 2048
    config.train.steps = 500_000
    optimizer = config.optimizer
    optimizer.learning_rate = 4e-4
    optimizer.schedule.name = "linear"
    optimizer.schedule.warmup = 40_000
    optimizer.schedule.final_fraction = 0.0
    optimizer.beta1 = 0.9
    optimizer.beta2 = 0.999
    optimizer.eps = 1e-6
    optimizer.bias_correction = False
    optimizer.weight_decay = 0.01
    config.train.clip_norm = 1.0

    if arg == "tiny":
        config.objective.num_predict = None
    return sized(config, arg)
