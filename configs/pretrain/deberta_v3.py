"""DeBERTa v3: replaced token detection, gradient-disentangled embeddings (He et al. 2023), base.

    tlx train --config=configs/pretrain/deberta_v3.py
    tlx train --config=configs/pretrain/deberta_v3.py:tiny

12 layers of 768, a generator of 6. Hardware: a batch of 8,192 rows of 512 on 64 chips or more.
Expected after fine-tuning: MNLI 90.6. The weight of the detection loss is the paper's 50; its code has 10.
As in its code the generator and the model are clipped apart, as by two optimizers (train.clip_groups); a rule of
optimizer.lr_multipliers for "^(model/encoder|heads/(rtd|rtd_norm|difference))" gives the model its own learning rate.
There the model reads the generator's table after its update, here before (tlx/objectives/rtd.py has the difference).
Its code draws one position of each window of six, which leaves the ends of rows unmasked: objective.draws = "window".
Text: as RoBERTa's.
"""

from ml_collections import ConfigDict

from tlx.recipes import published, sized, tfds


def get_config(arg: str = "") -> ConfigDict:
    """Return the config; `arg` is "" for the published size, "tiny" for a laptop."""
    config = published("rtd", "deberta-v2", "v3-base")
    config.objective.rows = "packed"
    config.objective.draws = "without_replacement"
    config.objective.mask_token_fraction = 1.0
    config.objective.mask_decoder = 2
    config.objective.embedding_sharing = "gdes"
    config.objective.head = "deberta"
    config.objective.generator_fraction = 1.0
    config.objective.generator_layers = 6
    config.tokenizer.model_type = "unigram"
    config.data.mixture = (
        tfds("wikipedia/20230601.en", train_split="train[:99%]", validation_split="train[99%:]"),
        tfds("pg19", column="book_text"),
        tfds("c4/realnewslike"),
        tfds("c4/webtextlike"),
    )
    config.data.mixture_power = 1.0  # in proportion to their sizes
    config.data.sequence_length = 512
    config.train.batch_size = 8192
    config.train.steps = 500_000
    optimizer = config.optimizer
    optimizer.learning_rate = 6e-4
    optimizer.schedule.name = "linear"
    optimizer.schedule.warmup = 10_000
    optimizer.schedule.final_fraction = 0.0
    optimizer.schedule.decay_from = "start"
    optimizer.beta1 = 0.9
    optimizer.beta2 = 0.98
    optimizer.eps = 1e-6
    optimizer.bias_correction = False
    optimizer.weight_decay = 0.01
    config.train.clip_norm = 1.0
    # The generator with the table that it shares: clipped apart from the model, as by two optimizers.
    config.train.clip_groups = ("^(model/embedding|heads/(generator|mlm|places))/",)

    if arg == "tiny":
        config.objective.generator_layers = 1
    return sized(config, arg)
