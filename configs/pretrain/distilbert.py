"""DistilBERT: BERT's predictions of every token, masked tokens, hidden states (Sanh et al. 2019), base.

    tlx train --config=configs/pretrain/distilbert.py --config.objective.teacher=DIR \\
        --config.tokenizer.kind=huggingface --config.tokenizer.path=DIR
    tlx train --config=configs/pretrain/bert.py:tiny --workdir=runs/bert
    tlx train --config=configs/pretrain/distilbert.py:tiny --config.objective.teacher=runs/bert

DIR is bert-base-uncased in Hugging Face's format. Hardware: the paper had 8 V100 of 16 GB for 90 hours.
Expected after fine-tuning: GLUE 77.0 (its teacher 79.5), SQuAD 1.1 F1 86.9. BooksCorpus is not in TFDS: PG-19
replaces it.
"""

from ml_collections import ConfigDict

from tlx.models.families import TABLE as FAMILIES
from tlx.recipes import published, small_model, tfds, tiny
from tlx.run.config import config_dict


def get_config(arg: str = "") -> ConfigDict:
    """Return the config; `arg` is "" for the published size, "tiny" for a laptop."""
    config = published("distillation", "distilbert", "base")
    config.objective.teacher_model = config_dict(FAMILIES.load("bert").sizes["base"])
    config.objective.init_layers = (0, 2, 4, 7, 9, 11)
    config.data.mixture = (
        tfds("wikipedia/20230601.en", train_split="train[:99%]", validation_split="train[99%:]"),
        tfds("pg19", column="book_text"),
    )
    config.data.mixture_power = 1.0  # in proportion to their sizes
    config.data.sequence_length = 512
    config.train.batch_size = 4000
    config.train.steps = 20_000
    optimizer = config.optimizer
    optimizer.learning_rate = 5e-4
    optimizer.schedule.name = "linear"
    optimizer.schedule.warmup = 0.05
    optimizer.schedule.final_fraction = 0.0
    optimizer.beta1 = 0.9
    optimizer.beta2 = 0.98
    optimizer.eps = 1e-6
    optimizer.weight_decay = 0.0
    config.train.clip_norm = 5.0

    if arg == "tiny":
        small_model(config.objective.teacher_model)
        tiny(config)
        config.model.num_layers = 1
        config.objective.init_layers = (0,)
    return config
