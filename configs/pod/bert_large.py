"""BERT large on 256 chips of TPU v5e, 32 rows of 512 tokens a chip.

    tlx plan --config=configs/pod/bert_large.py --target=tpu:v5e:16x16
    tlx launch tpu-vm --config=configs/pod/bert_large.py --name=bert-large --accelerator=v5litepod-256

Masked language modelling without dropout: the text is seen once, and fused attention has no dropout.
Parameters and optimizer state are sharded over groups of 16 chips (FSDP). --config.data.text.files names the
text. README.md beside this file has the compiler's figures; ":tiny" is the same for a laptop, in seconds.
"""

from ml_collections import ConfigDict

from tlx.base.config import to_dict
from tlx.models.families.bert import FAMILY
from tlx.recipes import tiny_pod, words_of
from tlx.run import base_config


def get_config(arg: str = "") -> ConfigDict:
    """Return the config; `arg` is "" for the pod, "tiny" for a laptop."""
    config = base_config("mlm")
    config.model.update(to_dict(FAMILY.sizes["large"]))
    config.model.feedforward.activation = "gelu_tanh"  # as its authors compute it
    config.model.vocab_size = 30_522
    config.tokenizer.vocab_size = 30_522
    config.model.dropout = 0.0
    config.model.attention.dropout = 0.0
    config.data.source = "text"
    config.data.text.files = ("/data/corpus/*.jsonl.gz",)
    config.data.sequence_length = 512
    config.train.batch_size = 8192
    config.train.steps = 31_250
    config.mesh.data = -1
    config.mesh.fsdp = 16  # a TPU sends thinner shards than 16 rows whole
    config.model.execution.remat = "attention+attended+fed+statistics"
    config.loss.chunk = 512
    if words_of(arg, ("tiny",)):
        tiny_pod(config)
    return config
