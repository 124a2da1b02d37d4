"""MobileBERT: BERT's masked tokens and next sentences in a deep and narrow model (Sun et al. 2020), base.

    tlx train --config=configs/pretrain/mobilebert.py
    tlx train --config=configs/pretrain/mobilebert.py:tiny

Hardware: 256 TPU v3 chips (paper). Expected after the paper's training: GLUE 77.7, SQuAD 1.1 F1 90.0. The paper first
trains a teacher (the family's size "ib-bert-large"), and transfers its layers one by one to this model, in 240,000 of
740,000 steps; here the model learns from the text alone, with the paper's batch, optimizer and number of steps. Rows
are BERT's, of which 20 tokens are predicted. Text: as BERT's.
"""

from ml_collections import ConfigDict

from tlx.recipes import published, sized, tfds


def get_config(arg: str = "") -> ConfigDict:
    """Return the config; `arg` is "" for the published size, "tiny" for a laptop."""
    config = published("nsp", "mobilebert", "base")
    config.objective.copies = 10
    config.objective.max_predictions = 20
    config.data.mixture = (
        tfds("wikipedia/20230601.en", train_split="train[:99%]", validation_split="train[99%:]"),
        tfds("pg19", column="book_text"),
    )
    config.data.mixture_power = 1.0  # in proportion to their sizes
    config.data.sequence_length = 512
    config.train.batch_size = 2048
    config.train.steps = 740_000
    optimizer = config.optimizer
    optimizer.name = "lamb"
    optimizer.learning_rate = 1.5e-3
    optimizer.schedule.name = "linear"
    optimizer.schedule.warmup = 10_000
    optimizer.schedule.decay_from = "start"
    optimizer.schedule.final_fraction = 0.0
    optimizer.beta1 = 0.9
    optimizer.beta2 = 0.999
    optimizer.eps = 1e-6
    optimizer.bias_correction = False
    optimizer.weight_decay = 0.01
    config.train.clip_norm = 1.0
    return sized(config, arg)
