"""Llama 2 7B on 256 chips of TPU v5e, two sequences of 2,048 tokens a chip.

    tlx plan --config=configs/pod/llama2_7b_v5e.py --target=tpu:v5e:16x16
    tlx launch tpu-vm --config=configs/pod/llama2_7b_v5e.py --name=llama2-7b-v5e --accelerator=v5litepod-256

Parameters and optimizer state are split over all chips (FSDP). What every matrix product makes is kept, and
nothing but norms, rotations and activations computed again: 15 of the chip's 17 GB. With less memory to
spare, --config.model.execution.remat=full keeps 4. Say where the text is with --config.data.text.files.
README.md beside this file has what the compiler says; ":tiny" behind it is the same for a laptop, in
seconds.
"""

from ml_collections import ConfigDict

from tlx.base.config import to_dict
from tlx.models.families.llama import LLAMA2
from tlx.run import base_config


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: "" or "tiny"."""
    config = base_config("clm")
    config.model.update(to_dict(LLAMA2.sizes["7b"]))
    config.model.vocab_size = config.tokenizer.vocab_size = 32_000
    config.data.source, config.data.text.files = "text", ("/data/corpus/*.jsonl.gz",)
    config.data.sequence_length, config.train.batch_size = 2048, 512
    config.train.steps = 1_907_000  # 2e12 tokens, as many as Llama 2 saw
    config.mesh.data, config.mesh.fsdp = 1, -1
    config.model.execution.remat = "query+key+value+attention+attended+in+gate"
    config.loss.chunk = 2048  # a chip's logits fit whole: the table is gathered once
    if arg == "tiny":
        _shrink(config)
    return config


def _shrink(config: ConfigDict) -> None:
    config.tokenizer.kind, config.data.source, config.model.vocab_size = "bytes", "python", 0
    config.model.width, config.model.num_layers, config.model.attention.num_heads = 64, 2, 4
    config.model.feedforward.ff_dim, config.loss.chunk = 192, 0
    config.data.sequence_length, config.train.batch_size, config.train.steps = 64, 8, 20
    config.eval.final = False
