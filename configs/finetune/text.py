"""A decoder goes on with language modelling on your texts: bits per byte and perplexity, before and after.

    tlx finetune --config=configs/finetune/text.py --from=BASE --config.data.records.train="('train.jsonl',)"
    tlx finetune --config=configs/finetune/text.py:lines --from=BASE ...         a text a line, of plain files

The column is "text". Rows of training are packed; --config.adapt.method=lora trains a hundredth. Other models
go on with their own objective: tlx train --from=BASE. What it is before: --config.train.steps=1
--config.data.records.epochs=0 --config.optimizer.learning_rate=1e-9.
Hardware: any. Expected: no figures are recorded yet. ":tiny" behind it is a handful of steps.
"""

from ml_collections import ConfigDict

from tlx.recipes import few_records, words_of
from tlx.run import finetune_config


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: "", "lines", "tiny", or both joined by a colon."""
    words = words_of(arg, ("lines", "tiny"))
    config = finetune_config("language_modeling")
    config.data.sequence_length = 512
    if "lines" in words:
        config.data.records.format = "lines"
    return few_records(config) if "tiny" in words else config
