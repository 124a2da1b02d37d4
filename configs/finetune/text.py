"""Language modelling of your texts with a pretrained decoder: bits per byte and perplexity, before and after.

    tlx finetune --config=configs/finetune/text.py --from=BASE --config.data.records.train="('train.jsonl',)"
    tlx finetune --config=configs/finetune/text.py:lines --from=BASE ...         plain files, one text per line

The column is "text". Training rows are packed; --config.adapt.method=lora trains a hundredth of the parameters.
For other models continue pretraining with their own objective: tlx train --from=BASE. For the score before
training: --config.train.steps=1 --config.data.records.epochs=0 --config.optimizer.learning_rate=1e-9.
Hardware: any. Expected: no figures are recorded yet. ":tiny" after the name is a run of a few steps.
"""

from ml_collections import ConfigDict

from tlx.recipes import few_records, words_of
from tlx.run import finetune_config


def get_config(arg: str = "") -> ConfigDict:
    """Return the config; `arg` is "", "lines", "tiny", or both joined by a colon."""
    words = words_of(arg, ("lines", "tiny"))
    config = finetune_config("language_modeling")
    config.data.sequence_length = 512
    if "lines" in words:
        config.data.records.format = "lines"
    return few_records(config) if "tiny" in words else config
