"""mBART: BART's noise on 25 languages, with a language id for each text (Liu et al. 2020), cc25.

    tlx train --config=configs/pretrain/mbart.py
    tlx train --config=configs/pretrain/mbart.py:tiny

Hardware: 256 V100 for 2.5 weeks (paper). Expected after fine-tuning: WMT16 en-ro 37.7 BLEU. CC25 is not in
TFDS: mC4's texts of the same languages replace it. In the paper dropout falls from 0.1 to 0 in two steps;
here it is constant.
"""

from ml_collections import ConfigDict

from tlx.recipes import published, sized, tfds

LANGUAGES = "ar cs de en es et fi fr gu hi it ja kk ko lt lv my ne nl ro ru si tr vi zh".split()


def get_config(arg: str = "") -> ConfigDict:
    """Return the config; `arg` is "" for the published size, "tiny" for a laptop."""
    config = published("mbart", "mbart", "cc25")
    config.tokenizer.model_type = "unigram"
    config.data.mixture = tuple(
        tfds("c4/multilingual", language=code, train_split=code, validation_split=f"{code}-validation")
        for code in LANGUAGES
    )
    config.data.mixture_power = 0.7
    config.data.sequence_length = 512
    config.data.add_eos = False
    config.train.batch_size = 256
    config.train.steps = 500_000
    optimizer = config.optimizer
    optimizer.learning_rate = 3e-4
    optimizer.schedule.name = "linear"
    optimizer.schedule.warmup = 10_000
    optimizer.schedule.final_fraction = 0.0
    optimizer.beta1 = 0.9
    optimizer.beta2 = 0.98
    optimizer.eps = 1e-6
    optimizer.weight_decay = 0.01
    config.train.clip_norm = None
    return sized(config, arg)
