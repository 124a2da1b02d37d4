"""TinyBERT: layer-wise distillation of attention, hidden states and embeddings (Jiao et al. 2020), 4 x 312.

    tlx train --config=configs/pretrain/tinybert.py --config.objective.teacher=DIR \\
        --config.tokenizer.kind=huggingface --config.tokenizer.path=DIR
    tlx train --config=configs/pretrain/bert.py:tiny --workdir=runs/bert
    tlx train --config=configs/pretrain/tinybert.py:tiny --config.objective.teacher=runs/bert

DIR is bert-base-uncased in Hugging Face's format. This is the general stage; the second one is a task's.
Hardware: 8 GPUs for a few days. Expected after both stages: GLUE 77.0 (its teacher 79.5).
"""

from ml_collections import ConfigDict

from tlx.models.families import TABLE as FAMILIES
from tlx.recipes import published, small_model, tfds, tiny
from tlx.run.config import config_dict


def get_config(arg: str = "") -> ConfigDict:
    """Return the config; `arg` is "" for the published size, "tiny" for a laptop."""
    config = published("layer_distillation", "bert", "base")
    config.objective.teacher_model = config_dict(FAMILIES.load("bert").sizes["base"])
    model = config.model
    model.num_layers = 4
    model.width = 312
    model.feedforward.ff_dim = 1200
    config.data.mixture = (
        tfds("wikipedia/20230601.en", train_split="train[:99%]", validation_split="train[99%:]"),
    )
    config.data.sequence_length = 128
    config.train.batch_size = 256
    config.train.steps = 1_000_000
    optimizer = config.optimizer
    optimizer.learning_rate = 1e-4
    optimizer.schedule.name = "linear"
    optimizer.schedule.warmup = 0.1
    optimizer.schedule.final_fraction = 0.0
    optimizer.beta1 = 0.9
    optimizer.beta2 = 0.999
    optimizer.eps = 1e-6
    optimizer.weight_decay = 0.01
    config.train.clip_norm = 1.0

    if arg == "tiny":
        small_model(config.objective.teacher_model)
        tiny(config)
        config.model.num_layers = 1
    return config
