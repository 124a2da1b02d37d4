"""BERT large on 256 chips of TPU v5e, 32 rows of 512 tokens a chip.

    tlx plan --config=configs/pod/bert_large.py --target=tpu:v5e:16x16
    tlx launch tpu-vm --config=configs/pod/bert_large.py --name=bert-large --accelerator=v5litepod-256

Masked language modelling without dropout, as RoBERTa's successors train on text that is seen once: fused
attention has none. Parameters and optimizer state are split over groups of 16 chips (FSDP). Say where the
text is with --config.data.text.files. README.md beside this file has what the compiler says; ":tiny" behind
it is the same for a laptop, in seconds.
"""

from ml_collections import ConfigDict

from tlx.base.config import to_dict
from tlx.models.families.bert import FAMILY
from tlx.run import base_config


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: "" or "tiny"."""
    config = base_config("mlm")
    config.model.update(to_dict(FAMILY.sizes["large"]))
    config.model.feedforward.activation = "gelu_tanh"  # as its authors compute it
    config.model.vocab_size = config.tokenizer.vocab_size = 30_522
    config.model.dropout = config.model.attention.dropout = 0.0
    config.data.source, config.data.text.files = "text", ("/data/corpus/*.jsonl.gz",)
    config.data.sequence_length, config.train.batch_size = 512, 8192
    config.train.steps = 31_250
    config.mesh.data, config.mesh.fsdp = -1, 16  # shards of 16 rows and more: thinner ones travel whole
    config.model.execution.remat = "attention+attended+fed+statistics"
    config.loss.chunk = 512
    if arg == "tiny":
        _shrink(config)
    return config


def _shrink(config: ConfigDict) -> None:
    config.tokenizer.kind, config.data.source, config.model.vocab_size = "bytes", "python", 0
    config.model.width, config.model.num_layers, config.model.attention.num_heads = 64, 2, 4
    config.model.feedforward.ff_dim, config.loss.chunk = 192, 0
    config.data.sequence_length, config.train.batch_size, config.train.steps = 64, 8, 20
    config.mesh.fsdp, config.eval.final = 1, False
