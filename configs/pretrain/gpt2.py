"""GPT-2: causal language modelling (Radford et al. 2019), small.

    tlx train --config=configs/pretrain/gpt2.py
    tlx train --config=configs/pretrain/gpt2.py:tiny

Hardware: 8 GPUs of 80 GB or 16 TPU v4 chips for some days. Expected: about 3.1 nats a token on OpenWebText.
The paper gives the batch (512 rows of 1,024) and neither learning rate nor steps: those are GPT-3
small's, for as many tokens. C4's subset modelled on WebText replaces it.
"""

from ml_collections import ConfigDict

from tlx.recipes import published, sized


def get_config(arg: str = "") -> ConfigDict:
    """Return the config; `arg` is "" for the published size, "tiny" for a laptop."""
    config = published("clm", "gpt2", "small")
    config.data.source = "tfds"
    config.data.tfds.name = "c4/webtextlike"
    config.data.sequence_length = 1024
    config.train.batch_size = 512
    config.train.steps = 572_205
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
    return sized(config, arg)
