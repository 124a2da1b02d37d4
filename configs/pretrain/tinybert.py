"""TinyBERT: BERT's attention, hidden states and embeddings by layers (Jiao et al. 2020), 4 layers of 312.

    tlx train --config=configs/pretrain/tinybert.py --config.objective.teacher=DIR \\
        --config.tokenizer.kind=huggingface --config.tokenizer.path=DIR
    tlx train --config=configs/pretrain/bert.py:tiny --workdir=runs/bert
    tlx train --config=configs/pretrain/tinybert.py:tiny --config.objective.teacher=runs/bert

DIR is bert-base-uncased as Hugging Face keeps it. The general stage: what follows is a task's. Hardware: 8
GPUs for a few days. Expected after both stages: GLUE 77.0 (its teacher 79.5).
"""

from ml_collections import ConfigDict

from tlx.models.families import TABLE as FAMILIES
from tlx.recipes import published, small_model, tfds, tiny
from tlx.run.config import config_dict


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: "tiny", or nothing for the published size."""
    config = published("layer_distillation", "bert", "base")
    config.objective.teacher_model = config_dict(FAMILIES.load("bert").sizes["base"])
    model = config.model
    model.num_layers, model.width, model.feedforward.ff_dim = 4, 312, 1200
    config.data.mixture = (
        tfds("wikipedia/20230601.en", train_split="train[:99%]", validation_split="train[99%:]"),
    )
    config.data.sequence_length, config.train.batch_size, config.train.steps = 128, 256, 1_000_000
    optimizer = config.optimizer
    optimizer.learning_rate, optimizer.schedule.name = 1e-4, "linear"
    optimizer.schedule.warmup, optimizer.schedule.final_fraction = 0.1, 0.0
    optimizer.beta1, optimizer.beta2, optimizer.eps = 0.9, 0.999, 1e-6
    optimizer.weight_decay, config.train.clip_norm = 0.01, 1.0

    if arg == "tiny":
        small_model(config.objective.teacher_model)
        tiny(config)
        config.model.num_layers = 1
    return config
