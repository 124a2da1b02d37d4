"""Llama 2 70B on 2,048 chips of TPU v5p, one sequence of 4,096 tokens a chip.

    tlx plan --config=configs/pod/llama2_70b_v5p.py --target=tpu:v5p:8x16x16
    tlx launch tpu-vm --config=configs/pod/llama2_70b_v5p.py --name=llama2-70b-v5p --accelerator=v5p-4096

Parameters and optimizer state are sharded over groups of 256 chips (FSDP); results of all matrix products are
kept for the backward pass. --config.data.text.files names the text. README.md beside this file has the
compiler's figures; ":tiny" is the same for a laptop, in seconds.
"""

from ml_collections import ConfigDict

from tlx.base.config import to_dict
from tlx.models.families.llama import LLAMA2
from tlx.recipes import tiny_pod, words_of
from tlx.run import base_config


def get_config(arg: str = "") -> ConfigDict:
    """Return the config; `arg` is "" for the pod, "tiny" for a laptop."""
    config = base_config("clm")
    config.model.update(to_dict(LLAMA2.sizes["70b"]))
    config.model.vocab_size = 32_000
    config.tokenizer.vocab_size = 32_000
    config.data.source = "text"
    config.data.text.files = ("/data/corpus/*.jsonl.gz",)
    config.data.sequence_length = 4096
    config.train.batch_size = 2048
    config.train.steps = 238_000  # 2e12 tokens
    config.mesh.data = -1
    config.mesh.fsdp = 256  # a TPU sends thinner shards than 16 rows whole
    config.model.execution.remat = "query+key+value+attention+attended+in+gate"
    config.loss.chunk = 4096
    if words_of(arg, ("tiny",)):
        tiny_pod(config)
    return config
