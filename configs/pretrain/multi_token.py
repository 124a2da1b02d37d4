"""Multi-token prediction: a decoder pretrained with heads of further tokens, or Medusa's heads of a finished one.

    tlx train --config=configs/pretrain/multi_token.py                        GPT-2 small and heads, from nothing
    tlx train --config=configs/pretrain/multi_token.py:medusa --from=DIR      heads of a decoder that stays as it is
    tlx train --config=configs/pretrain/multi_token.py:tiny
    tlx generate runs/multi_token --draft=heads --prompt='class '             the heads draft for the model

Hardware: as gpt2.py; Medusa's heads of a model of 7B: one GPU of 80 GB. Losses as in Gloeckle et al. 2024: the next
four tokens alike, one output kernel; their models (0.3B to 13B on code) are not GPT-2, and batch, steps and learning
rate here are gpt2.py's. ":medusa": Medusa-1 (Cai et al. 2024): five heads with output kernels of their own, decay
0.8; batch, learning rate, warmup and no weight decay are those of its code (FasterDecoding/Medusa,
scripts/train_vicuna_7b.sh), which trains on an epoch of conversations. Here it is text, for 2,000 steps: take text
as near as possible to what the model will write. DIR is a run or a Hugging Face directory; only the heads are trained
and saved, and the run needs DIR to be loaded.
"""

from typing import Any

from ml_collections import ConfigDict

from tlx.recipes import published, tiny, words_of


def get_config(arg: str = "") -> ConfigDict:
    """Return the config; words of `arg` are "medusa" for heads of a finished model, "tiny" for a laptop."""
    words = words_of(arg, ("medusa", "tiny"))
    config = published("multi_token", "gpt2", "small")
    config.data.source = "tfds"
    config.data.tfds.name = "c4/webtextlike"
    config.data.sequence_length = 1024
    config.train.batch_size = 512
    config.train.steps = 572_205
    config.objective.num_heads = 3
    config.objective.own_outputs = False
    config.objective.decay = 1.0
    optimizer = config.optimizer
    optimizer.learning_rate = 6e-4
    optimizer.schedule.name = "cosine"
    optimizer.schedule.warmup = 715
    optimizer.schedule.final_fraction = 0.1
    optimizer.beta1 = 0.9
    optimizer.beta2 = 0.95
    optimizer.eps = 1e-8
    optimizer.weight_decay = 0.1
    config.train.clip_norm = 1.0
    if "medusa" in words:
        config.train.batch_size = 128
        config.train.steps = 2_000
    if "tiny" in words:
        tiny(config)
    if "medusa" in words:
        _medusa(config)
    return config


def _medusa(config: Any) -> None:
    """Change the config in place to heads of a base model, which is not trained."""
    config.adapt.method = "head"
    config.objective.num_heads = 5
    config.objective.own_outputs = True
    config.objective.decay = 0.8
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.weight_decay = 0.0
    config.optimizer.schedule.name = "cosine"
    config.optimizer.schedule.warmup = 0.1
    config.optimizer.schedule.final_fraction = 0.0
