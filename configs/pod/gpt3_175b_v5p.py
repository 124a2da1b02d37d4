"""GPT-3 175B on 2,048 chips of TPU v5p, one sequence of 2,048 tokens a chip.

    tlx plan --config=configs/pod/gpt3_175b_v5p.py --target=tpu:v5p:8x16x16
    tlx launch tpu-vm --config=configs/pod/gpt3_175b_v5p.py --name=gpt3-175b-v5p --accelerator=v5p-4096

Parameters and optimizer state are split over groups of 256 chips (FSDP); what every matrix product makes is
kept. Say where the text is with --config.data.text.files. README.md beside this file has what the compiler
says; ":tiny" behind it is the same for a laptop, in seconds.
"""

from ml_collections import ConfigDict

from tlx.base.config import to_dict
from tlx.models.families.gpt3 import FAMILY
from tlx.run import base_config


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: "" or "tiny"."""
    config = base_config("clm")
    config.model.update(to_dict(FAMILY.sizes["175b"]))
    config.model.vocab_size = config.tokenizer.vocab_size = 50_257
    config.model.dropout = config.model.attention.dropout = 0.0  # text is seen once
    config.data.source, config.data.text.files = "text", ("/data/corpus/*.jsonl.gz",)
    config.data.sequence_length, config.train.batch_size = 2048, 2048
    config.train.steps = 71_500  # 3e11 tokens
    config.mesh.data, config.mesh.fsdp = -1, 256  # shards of 16 rows and more: thinner ones travel whole
    config.model.execution.remat = "query+key+value+attention+attended+in"
    config.loss.chunk = 2048
    if arg == "tiny":
        _shrink(config)
    return config


def _shrink(config: ConfigDict) -> None:
    config.tokenizer.kind, config.data.source, config.model.vocab_size = "bytes", "python", 0
    config.model.width, config.model.num_layers, config.model.attention.num_heads = 64, 2, 4
    config.model.feedforward.ff_dim, config.loss.chunk = 192, 0
    config.data.sequence_length, config.train.batch_size, config.train.steps = 64, 8, 20
    config.mesh.fsdp, config.eval.final = 1, False
