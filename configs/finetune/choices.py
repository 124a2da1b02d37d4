r"""The likelier of two continuations: COPA of KoBEST, or any table with a column for each choice.

    tlx finetune --config=configs/finetune/choices.py --from=BASE \
        --config.data.records.train="('COPA.train.tsv',)" \
        --config.data.records.validation="('COPA.dev.tsv',)"

A decoder may keep half of its language model loss, as GPT-1 does: --config.objective.lm_loss_weight=0.5.

Hardware: any. Expected: the score in README.md. ":tiny" after the name is a run of a few steps.
"""

from ml_collections import ConfigDict

from tlx.recipes import few_records, words_of
from tlx.run import finetune_config


def get_config(arg: str = "") -> ConfigDict:
    """Return the config; `arg` is "" or "tiny"."""
    config = finetune_config("multiple_choice")
    config.objective.context = ("sentence", "question")
    config.objective.choices = ("1", "2")
    config.objective.labels = ("1", "2")
    config.objective.label = "Answer"
    records = config.data.records
    records.format = "tsv"
    records.epochs = 10.0
    return few_records(config) if words_of(arg, ("tiny",)) else config
