"""mT5: corrupted spans of a hundred languages, the small ones more often (Xue et al. 2021), base.

    tlx train --config=configs/pretrain/mt5.py
    tlx train --config=configs/pretrain/mt5.py:tiny

Hardware: 64 TPU v3 chips and more, for 1,024 rows of 1,024. Expected after fine-tuning: XNLI 75.4 (base). A
language's share is its size to the power of .3. ":tiny" has two sources in place of them.
"""

from ml_collections import ConfigDict

from tlx.recipes import published, sized, tfds

LANGUAGES = """
    af am ar az be bg bg-Latn bn ca ceb co cs cy da de el el-Latn en eo es et eu fa fi fil fr fy ga gd gl
    gu ha haw hi hi-Latn hmn ht hu hy id ig is it iw ja ja-Latn jv ka kk km kn ko ku ky la lb lo lt lv mg mi
    mk ml mn mr ms mt my ne nl no ny pa pl ps pt ro ru ru-Latn sd si sk sl sm sn so sq sr st su sv sw ta te
    tg th tr uk ur uz vi xh yi yo zh zh-Latn zu
""".split()


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: "tiny", or nothing for the published size."""
    config = published("span_corruption", "mt5", "base")
    config.model.dropout = config.model.attention.dropout = config.model.feedforward.dropout = 0.0
    config.tokenizer.model_type = "unigram"
    config.data.mixture = tuple(
        tfds("c4/multilingual", language=code, train_split=code, validation_split=f"{code}-validation")
        for code in LANGUAGES
    )
    config.data.mixture_power = 0.3
    config.data.sequence_length, config.train.batch_size, config.train.steps = 1024, 1024, 1_000_000
    optimizer = config.optimizer
    optimizer.name = "adafactor"
    optimizer.learning_rate, optimizer.schedule.name = 1e-2, "inverse_sqrt"
    optimizer.schedule.warmup, optimizer.schedule.final_fraction = 10_000, 0.0
    optimizer.weight_decay, config.train.clip_norm = 0.0, None
    return sized(config, arg)
