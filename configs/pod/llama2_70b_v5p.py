"""Llama 2 70B on 2,048 chips of TPU v5p, one sequence of 4,096 tokens a chip.

    tlx plan --config=configs/pod/llama2_70b_v5p.py --target=tpu:v5p:8x16x16
    tlx launch tpu-vm --config=configs/pod/llama2_70b_v5p.py --name=llama2-70b-v5p --accelerator=v5p-4096

Parameters and optimizer state are split over groups of 256 chips (FSDP); what every matrix product makes is
kept. Say where the text is with --config.data.text.files. README.md beside this file has what the compiler
says; ":tiny" behind it is the same for a laptop, in seconds.
"""

from ml_collections import ConfigDict

from tlx.base.config import to_dict
from tlx.models.families.llama import LLAMA2
from tlx.run import base_config


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: "" or "tiny"."""
    config = base_config("clm")
    config.model.update(to_dict(LLAMA2.sizes["70b"]))
    config.model.vocab_size = config.tokenizer.vocab_size = 32_000
    config.data.source, config.data.text.files = "text", ("/data/corpus/*.jsonl.gz",)
    config.data.sequence_length, config.train.batch_size = 4096, 2048
    config.train.steps = 238_000  # 2e12 tokens
    config.mesh.data, config.mesh.fsdp = -1, 256  # shards of 16 rows and more: thinner ones travel whole
    config.model.execution.remat = "query+key+value+attention+attended+in+gate"
    config.loss.chunk = 4096
    if arg == "tiny":
        _shrink(config)
    return config


def _shrink(config: ConfigDict) -> None:
    config.tokenizer.kind, config.data.source, config.model.vocab_size = "bytes", "python", 0
    config.model.width, config.model.num_layers, config.model.attention.num_heads = 64, 2, 4
    config.model.feedforward.ff_dim, config.loss.chunk = 192, 0
    config.model.attention.num_kv_heads = 2
    config.data.sequence_length, config.train.batch_size, config.train.steps = 64, 8, 20
    config.mesh.fsdp, config.eval.final = 1, False
