"""XLM: masked tokens of fifteen languages and of pairs of translations (Conneau and Lample 2019).

    tlx train --config=configs/pretrain/xlm.py
    tlx train --config=configs/pretrain/xlm.py:tiny

12 layers of 1,024, the model of XNLI's 15 languages. Hardware: a batch of 4,096 streams of 256 tokens on 64
GPUs (paper). The optimizer is that of the released command. Expected after fine-tuning: XNLI 75.1 on average,
85.0 in English. Wikipedia in each language, sampled by the square root of its size; translations of TFDS's
ParaCrawl and WMT, for as many of the languages as they have.
"""

from ml_collections import ConfigDict

from tlx.recipes import published, sized, tfds

LANGUAGES = "en ar bg de el es fr hi ru sw th tr ur vi zh".split()
TRANSLATIONS = (
    *((f"para_crawl/en{language}", language) for language in ("bg", "de", "el", "es", "fr")),
    ("wmt18_translate/ru-en", "ru"),
    ("wmt18_translate/zh-en", "zh"),
)


def get_config(arg: str = "") -> ConfigDict:
    """Return the config; `arg` is "" for the published size, "tiny" for a laptop."""
    config = published("xlm", "xlm", "mlm-tlm-xnli15-1024")
    config.data.mixture = tuple(
        tfds(
            f"wikipedia/20230601.{language}",
            language=language,
            train_split="train[:99%]",
            validation_split="train[99%:]",
        )
        for language in LANGUAGES
    ) + tuple(
        tfds(
            name,
            language="en",
            target_language=language,
            column="en",
            target_column=language,
            train_split="train[:99%]",
            validation_split="train[99%:]",
        )
        for name, language in TRANSLATIONS
    )
    config.data.mixture_power = 0.5
    config.data.sequence_length = 256
    config.train.batch_size = 4096
    config.train.steps = 500_000
    optimizer = config.optimizer
    optimizer.learning_rate = 1e-4
    optimizer.schedule.name = "inverse_sqrt"
    optimizer.schedule.warmup = 4_000
    optimizer.schedule.final_fraction = 0.0
    optimizer.beta1 = 0.9
    optimizer.beta2 = 0.98
    optimizer.eps = 1e-8
    optimizer.weight_decay = 0.0
    config.train.clip_norm = 5.0
    return sized(config, arg)
