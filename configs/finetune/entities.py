"""Names in text, token by token: WNUT 17, KLUE's NER, or any CoNLL file.

    tlx finetune --config=configs/finetune/entities.py --from=BASE \\
        --config.data.records.train="('wnut17train.conll',)" \\
        --config.data.records.validation="('emerging.dev.conll',)"
    tlx finetune --config=configs/finetune/entities.py:characters --from=BASE ...       a character a line

F1 of whole entities, as conlleval has it (needs `pip install 'tlx-lm[finetune]'`).
Hardware: any. Expected: the score in README.md. ":tiny" behind it is a handful of steps.
"""

from ml_collections import ConfigDict

from tlx.recipes import few_records, words_of
from tlx.run import finetune_config


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: "", "characters" (tokens are characters, the space among them), "tiny", or both by a colon."""
    words = words_of(arg, ("characters", "tiny"))
    config = finetune_config("token_classification")
    records = config.data.records
    records.format = "conll"
    records.epochs = 10.0
    config.data.sequence_length = 128
    if "characters" in words:
        config.objective.joiner = ""
    return few_records(config) if "tiny" in words else config
