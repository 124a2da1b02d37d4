"""T5 11B on 256 chips of TPU v5e, eight examples of 512 + 114 tokens a chip.

    tlx plan --config=configs/pod/t5_11b.py --target=tpu:v5e:16x16
    tlx launch tpu-vm --config=configs/pod/t5_11b.py --name=t5-11b --accelerator=v5litepod-256

Parameters and optimizer state are split over groups of 64 chips (FSDP); layers are computed again in the
backward pass but for what attention adds: their feed-forward is 65,536 wide. Say where the text is with
--config.data.text.files. README.md beside this file has what the compiler says; ":tiny" behind it is the
same for a laptop, in seconds.
"""

from ml_collections import ConfigDict

from tlx.base.config import to_dict
from tlx.models.families.t5 import FAMILY
from tlx.run import base_config


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: "" or "tiny"."""
    config = base_config("span_corruption")
    config.model.update(to_dict(FAMILY.sizes["11b"]))
    config.model.vocab_size = config.tokenizer.vocab_size = 32_128
    config.model.dropout = config.model.feedforward.dropout = 0.0  # as T5 1.1 is pretrained
    config.model.attention.dropout = 0.0
    config.optimizer.name = "adafactor"
    config.data.source, config.data.text.files = "text", ("/data/corpus/*.jsonl.gz",)
    config.data.sequence_length, config.train.batch_size = 512, 2048
    config.train.steps = 1_000_000
    config.mesh.data, config.mesh.fsdp = -1, 64  # shards of 16 rows and more: thinner ones travel whole
    config.model.execution.remat = "attended+statistics"
    config.loss.chunk = 512
    if arg == "tiny":
        _shrink(config)
    return config


def _shrink(config: ConfigDict) -> None:
    config.tokenizer.kind, config.data.source, config.model.vocab_size = "bytes", "python", 0
    config.model.width, config.model.num_layers, config.model.attention.num_heads = 64, 2, 4
    config.model.feedforward.ff_dim, config.loss.chunk = 192, 0
    config.model.attention.head_dim, config.model.num_decoder_layers = 0, 2
    config.data.sequence_length, config.train.batch_size, config.train.steps = 64, 8, 20
    config.mesh.fsdp, config.eval.final = 1, False
