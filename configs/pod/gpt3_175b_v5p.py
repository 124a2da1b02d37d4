"""GPT-3 175B on 2,048 chips of TPU v5p, one sequence of 2,048 tokens a chip.

    tlx plan --config=configs/pod/gpt3_175b_v5p.py --target=tpu:v5p:8x16x16
    tlx launch tpu-vm --config=configs/pod/gpt3_175b_v5p.py --name=gpt3-175b-v5p --accelerator=v5p-4096

Parameters and optimizer state are sharded over groups of 256 chips (FSDP); results of all matrix products are
kept for the backward pass. --config.data.text.files names the text. README.md beside this file has the
compiler's figures; ":tiny" is the same for a laptop, in seconds.
"""

from ml_collections import ConfigDict

from tlx.base.config import to_dict
from tlx.models.families.gpt3 import FAMILY
from tlx.recipes import tiny_pod, words_of
from tlx.run import base_config


def get_config(arg: str = "") -> ConfigDict:
    """Return the config; `arg` is "" for the pod, "tiny" for a laptop."""
    config = base_config("clm")
    config.model.update(to_dict(FAMILY.sizes["175b"]))
    config.model.vocab_size = 50_257
    config.tokenizer.vocab_size = 50_257
    config.model.dropout = 0.0
    config.model.attention.dropout = 0.0  # text is seen once
    config.data.source = "text"
    config.data.text.files = ("/data/corpus/*.jsonl.gz",)
    config.data.sequence_length = 2048
    config.train.batch_size = 2048
    config.train.steps = 71_500  # 3e11 tokens
    config.mesh.data = -1
    config.mesh.fsdp = 256  # a TPU sends thinner shards than 16 rows whole
    config.model.execution.remat = "query+key+value+attention+attended+in"
    config.loss.chunk = 2048
    if words_of(arg, ("tiny",)):
        tiny_pod(config)
    return config
