r"""Named entities, token by token: WNUT 17, KLUE's NER, or any CoNLL file.

    tlx finetune --config=configs/finetune/entities.py --from=BASE \
        --config.data.records.train="('wnut17train.conll',)" \
        --config.data.records.validation="('emerging.dev.conll',)"
    tlx finetune --config=configs/finetune/entities.py:characters --from=BASE ...     one character per line

The metric is the F1 of whole entities, as in conlleval (needs `pip install 'tlx-lm[finetune]'`).
Hardware: any. Expected: the score in README.md. ":tiny" after the name is a run of a few steps.
"""

from ml_collections import ConfigDict

from tlx.recipes import few_records, words_of
from tlx.run import finetune_config


def get_config(arg: str = "") -> ConfigDict:
    """Return the config; `arg` is "", "characters", "tiny", or both joined by a colon.

    With "characters" the tokens of a record are characters, including spaces.
    """
    words = words_of(arg, ("characters", "tiny"))
    config = finetune_config("token_classification")
    records = config.data.records
    records.format = "conll"
    records.epochs = 10.0
    config.data.sequence_length = 128
    if "characters" in words:
        config.objective.joiner = ""
    return few_records(config) if "tiny" in words else config
