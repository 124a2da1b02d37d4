r"""Whether one sentence follows from another: KLUE's NLI, KorNLI, or any file with two texts and a label.

    tlx finetune --config=configs/finetune/pairs.py --from=BASE \
        --config.data.records.train="('klue-nli-v1.1_train.json',)"
    tlx finetune --config=configs/finetune/pairs.py:kornli --from=BASE ...           tab-separated, unquoted
    tlx finetune --config=configs/finetune/pairs.py:xnli --from=BASE \
        --config.data.records.train="('multinli.train.en.tsv',)" \
        --config.data.records.validation="('xnli.dev.tsv',)" --config.data.records.test="('xnli.test.tsv',)"

XNLI's dev and test records have fifteen languages, and each one's accuracy is among the figures; its training records
are English and need a column "language" too. A base that was trained with languages (XLM) reads their names with
--config.objective.language=language --config.objective.second_language=language.

Hardware: any. Expected: the score in README.md. ":tiny" after the name is a run of a few steps.
"""

from ml_collections import ConfigDict

from tlx.recipes import few_records, words_of
from tlx.run import finetune_config


def get_config(arg: str = "") -> ConfigDict:
    """Return the config; `arg` is "", "kornli" or "xnli", "tiny", or two joined by a colon."""
    words = words_of(arg, ("kornli", "xnli", "tiny"))
    config = finetune_config("pair_classification")
    config.objective.label = "gold_label"
    records = config.data.records
    records.format = "json"
    records.group_column = "premise"  # each occurs with three hypotheses
    if "xnli" in words:
        config.objective.figures_by = "language"
    if {"kornli", "xnli"} & set(words):
        records.format = "tsv"
        records.quoting = False
        records.group_column = "sentence1"
        config.objective.first = "sentence1"
        config.objective.second = "sentence2"
    return few_records(config) if "tiny" in words else config
