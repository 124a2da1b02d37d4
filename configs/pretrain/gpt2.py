"""GPT-2: causal language modelling (Radford et al. 2019), small.

    tlx train --config=configs/pretrain/gpt2.py
    tlx train --config=configs/pretrain/gpt2.py:tiny

Hardware: 8 GPUs of 80 GB or 16 TPU v4 chips for some days. Expected: about 3.1 nats a token on OpenWebText.
The paper gives the batch (512 rows of 1,024) and neither rate nor steps: those are GPT-3 small's, for as
many tokens. C4's subset of the pages that WebText links to stands in for WebText.
"""

from ml_collections import ConfigDict

from tlx.recipes import published, sized


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: "tiny", or nothing for the published size."""
    config = published("clm", "gpt2", "small")
    config.data.source, config.data.tfds.name = "tfds", "c4/webtextlike"
    config.data.sequence_length, config.train.batch_size, config.train.steps = 1024, 512, 572_205
    optimizer = config.optimizer
    optimizer.learning_rate, optimizer.schedule.name = 6e-4, "cosine"
    optimizer.schedule.warmup, optimizer.schedule.final_fraction = 715, 0.1
    optimizer.beta1, optimizer.beta2, optimizer.eps = 0.9, 0.95, 1e-8
    optimizer.weight_decay, config.train.clip_norm = 0.1, 1.0
    return sized(config, arg)
