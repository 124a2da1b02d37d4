"""The train step of BERT large: 32 rows of 512 tokens.

    tlx bench --config=configs/bench/bert_large.py

On bytes of Python's standard library, so on any machine; hardware: one H200 (none was at hand:
no figures are recorded yet). ":tiny" behind it is the same for a laptop, in seconds.
"""

from ml_collections import ConfigDict

from tlx.base.config import to_dict
from tlx.models.families.bert import FAMILY
from tlx.run import base_config


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: "" or "tiny"."""
    config = base_config("mlm")
    config.tokenizer.kind = "bytes"
    model = config.model
    model.update(to_dict(FAMILY.sizes["large"]))
    model.dropout = model.attention.dropout = 0.0
    config.data.sequence_length, config.train.batch_size = 512, 32
    if arg == "tiny":
        model.width, model.num_layers, model.attention.num_heads = 64, 2, 4
        model.feedforward.hidden, model.vocab_size = 192, 512
        config.data.sequence_length, config.train.batch_size = 64, 8
    return config
