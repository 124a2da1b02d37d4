"""T5 11B on 256 chips of TPU v5e, eight examples of 512 + 114 tokens a chip.

    tlx plan --config=configs/pod/t5_11b.py --target=tpu:v5e:16x16
    tlx launch tpu-vm --config=configs/pod/t5_11b.py --name=t5-11b --accelerator=v5litepod-256

Parameters and optimizer state are sharded over groups of 64 chips (FSDP). Layers are rematerialised in the
backward pass except for the outputs of attention: their feed-forward dim is 65,536. --config.data.text.files
names the text. README.md beside this file has the compiler's figures; ":tiny" is the same for a laptop, in
seconds.
"""

from ml_collections import ConfigDict

from tlx.base.config import to_dict
from tlx.models.families.t5 import FAMILY
from tlx.recipes import tiny_pod, words_of
from tlx.run import base_config


def get_config(arg: str = "") -> ConfigDict:
    """Return the config; `arg` is "" for the pod, "tiny" for a laptop."""
    config = base_config("span_corruption")
    config.model.update(to_dict(FAMILY.sizes["11b"]))
    config.model.vocab_size = 32_128
    config.tokenizer.vocab_size = 32_128
    config.model.dropout = 0.0
    config.model.feedforward.dropout = 0.0  # as T5 1.1 is pretrained
    config.model.attention.dropout = 0.0
    config.optimizer.name = "adafactor"
    config.data.source = "text"
    config.data.text.files = ("/data/corpus/*.jsonl.gz",)
    config.data.sequence_length = 512
    config.train.batch_size = 2048
    config.train.steps = 1_000_000
    config.mesh.data = -1
    config.mesh.fsdp = 64  # a TPU sends thinner shards than 16 rows whole
    config.model.execution.remat = "attended+statistics"
    config.loss.chunk = 512
    if words_of(arg, ("tiny",)):
        tiny_pod(config)
        config.model.attention.head_dim = 0
        config.model.num_decoder_layers = 2
    return config
