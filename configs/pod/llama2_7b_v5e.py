"""Llama 2 7B on 256 chips of TPU v5e, two sequences of 2,048 tokens a chip.

    tlx plan --config=configs/pod/llama2_7b_v5e.py --target=tpu:v5e:16x16
    tlx launch tpu-vm --config=configs/pod/llama2_7b_v5e.py --name=llama2-7b-v5e --accelerator=v5litepod-256

Parameters and optimizer state are sharded over all chips (FSDP). Results of all matrix products are kept for
the backward pass; only norms, rotations and activations are rematerialised: 15 of the chip's 17 GB. With
--config.model.execution.remat=full it takes 4. --config.data.text.files names the text. README.md beside this
file has the compiler's figures; ":tiny" is the same for a laptop, in seconds.
"""

from ml_collections import ConfigDict

from tlx.base.config import to_dict
from tlx.models.families.llama import LLAMA2
from tlx.recipes import tiny_pod, words_of
from tlx.run import base_config


def get_config(arg: str = "") -> ConfigDict:
    """Return the config; `arg` is "" for the pod, "tiny" for a laptop."""
    config = base_config("clm")
    config.model.update(to_dict(LLAMA2.sizes["7b"]))
    config.model.vocab_size = 32_000
    config.tokenizer.vocab_size = 32_000
    config.data.source = "text"
    config.data.text.files = ("/data/corpus/*.jsonl.gz",)
    config.data.sequence_length = 2048
    config.train.batch_size = 512
    config.train.steps = 1_907_000  # 2e12 tokens, as many as Llama 2 saw
    config.mesh.data = 1
    config.mesh.fsdp = -1
    config.model.execution.remat = "query+key+value+attention+attended+in+gate"
    config.loss.chunk = 2048  # a chip's logits fit whole: the table is gathered once
    if words_of(arg, ("tiny",)):
        tiny_pod(config)
    return config
