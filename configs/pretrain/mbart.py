"""mBART: BART's noise on 25 languages, each text marked with its own (Liu et al. 2020), cc25.

    tlx train --config=configs/pretrain/mbart.py
    tlx train --config=configs/pretrain/mbart.py:tiny

Hardware: 256 V100 for 2.5 weeks (paper). Expected after fine-tuning: WMT16 en-ro 37.7 BLEU. CC25 is not in
TFDS: mC4's texts of the same languages stand in. Dropout falls in the paper from .1 to 0 in two steps; here
it stays.
"""

from ml_collections import ConfigDict

from tlx.recipes import published, sized, tfds

LANGUAGES = "ar cs de en es et fi fr gu hi it ja kk ko lt lv my ne nl ro ru si tr vi zh".split()


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: "tiny", or nothing for the published size."""
    config = published("mbart", "mbart", "cc25")
    config.tokenizer.model_type = "unigram"
    config.data.mixture = tuple(
        tfds("c4/multilingual", language=code, train_split=code, validation_split=f"{code}-validation")
        for code in LANGUAGES
    )
    config.data.mixture_power = 0.7
    config.data.sequence_length, config.train.batch_size, config.train.steps = 512, 256, 500_000
    optimizer = config.optimizer
    optimizer.learning_rate, optimizer.schedule.name = 3e-4, "linear"
    optimizer.schedule.warmup, optimizer.schedule.final_fraction = 10_000, 0.0
    optimizer.beta1, optimizer.beta2, optimizer.eps = 0.9, 0.98, 1e-6
    optimizer.weight_decay, config.train.clip_norm = 0.01, None
    return sized(config, arg)
