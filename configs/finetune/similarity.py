r"""Similarity of two sentences, from 0 to 5: KorSTS, or any table with two texts and a number.

    tlx finetune --config=configs/finetune/similarity.py --from=BASE \
        --config.data.records.train="('sts-train.tsv',)" \
        --config.data.records.validation="('sts-dev.tsv',)"

A decoder may keep half of its language model loss, as GPT-1 does: --config.objective.lm_loss_weight=0.5.

Hardware: any. Expected: the score in README.md. ":tiny" after the name is a run of a few steps.
"""

from ml_collections import ConfigDict

from tlx.recipes import few_records, words_of
from tlx.run import finetune_config


def get_config(arg: str = "") -> ConfigDict:
    """Return the config; `arg` is "" or "tiny"."""
    config = finetune_config("similarity")
    records = config.data.records
    records.format = "tsv"
    records.quoting = False
    records.epochs = 10.0
    return few_records(config) if words_of(arg, ("tiny",)) else config
