"""XLNet: a permutation of each row, two streams, memory of the text before (Yang et al. 2019), base.

    tlx train --config=configs/pretrain/xlnet.py
    tlx train --config=configs/pretrain/xlnet.py:tiny

Hardware: a batch of 2,048 rows of 512 on 64 chips; the paper had 512 TPU v3 chips for 5.5 days (large).
Expected after fine-tuning (large): MNLI 90.8, RACE 81.75. Half of the rows read the text backwards, as in the
official runs. Of the paper's text, Giga5 and ClueWeb are not in TFDS: C4 stands in for them.
"""

from ml_collections import ConfigDict

from tlx.recipes import published, sized, tfds


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: "tiny", or nothing for the published size."""
    config = published("plm", "xlnet", "base")
    config.objective.pairs, config.objective.bi_data, config.objective.num_predict = True, True, 85
    config.tokenizer.model_type = "unigram"
    config.data.mixture = (
        tfds("wikipedia/20230601.en", train_split="train[:99%]", validation_split="train[99%:]"),
        tfds("pg19", column="book_text"),
        tfds("c4/en"),
    )
    config.data.mixture_power = 1.0  # by their sizes
    config.data.sequence_length, config.train.batch_size, config.train.steps = 512, 2048, 500_000
    optimizer = config.optimizer
    optimizer.learning_rate, optimizer.schedule.name = 4e-4, "linear"
    optimizer.schedule.warmup, optimizer.schedule.final_fraction = 40_000, 0.0
    optimizer.beta1, optimizer.beta2, optimizer.eps = 0.9, 0.999, 1e-6
    optimizer.weight_decay, config.train.clip_norm = 0.01, 1.0

    if arg == "tiny":
        config.objective.num_predict = None
    return sized(config, arg)
