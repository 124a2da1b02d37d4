"""mT5: span corruption in a hundred languages, small ones upsampled (Xue et al. 2021), base.

    tlx train --config=configs/pretrain/mt5.py
    tlx train --config=configs/pretrain/mt5.py:tiny

Hardware: 64 TPU v3 chips and more, for 1,024 rows of 1,024. Expected after fine-tuning: XNLI 75.4 (base). A
language is sampled in proportion to its size to the power of 0.3. ":tiny" has two sources.
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
    """Return the config; `arg` is "" for the published size, "tiny" for a laptop."""
    config = published("span_corruption", "mt5", "base")
    config.model.dropout = 0.0
    config.model.attention.dropout = 0.0
    config.model.feedforward.dropout = 0.0
    config.tokenizer.model_type = "unigram"
    config.data.mixture = tuple(
        tfds("c4/multilingual", language=code, train_split=code, validation_split=f"{code}-validation")
        for code in LANGUAGES
    )
    config.data.mixture_power = 0.3
    config.data.sequence_length = 1024
    config.data.add_eos = False
    config.train.batch_size = 1024
    config.train.steps = 1_000_000
    optimizer = config.optimizer
    optimizer.name = "adafactor"
    optimizer.learning_rate = 1e-2
    optimizer.schedule.name = "inverse_sqrt"
    optimizer.schedule.warmup = 10_000
    optimizer.schedule.warmup_shape = "constant"
    optimizer.schedule.final_fraction = 0.0
    optimizer.weight_decay = 0.0
    config.train.clip_norm = None
    return sized(config, arg)
