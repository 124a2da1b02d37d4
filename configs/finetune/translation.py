r"""Translation: Python's documentation into Korean, or any file with texts and their translations.

    tlx finetune --config=configs/finetune/translation.py --from=BASE \
        --config.data.records.train="('python_docs_ko_en/train.jsonl.gz',)" \
        --config.data.records.validation="('python_docs_ko_en/dev.jsonl.gz',)"
    tlx finetune --config=configs/finetune/translation.py:en --from=BASE ...             into English

The columns are "en" and "ko". BLEU is sacreBLEU's, with its 13a tokenization; chrF, over characters, is more
informative for Korean, whose words are long. From scratch, raise the learning rate and the epochs.
Hardware: any. Expected: the score in README.md. ":tiny" after the name is a run of a few steps.
"""

from ml_collections import ConfigDict

from tlx.recipes import few_records, words_of
from tlx.run import finetune_config


def get_config(arg: str = "") -> ConfigDict:
    """Return the config; `arg` is "", "en", "tiny", or both joined by a colon."""
    words = words_of(arg, ("en", "tiny"))
    config = finetune_config("generation")
    objective = config.objective
    objective.source = "translate English to Korean: {en}"
    objective.target = "{ko}"
    if "en" in words:
        objective.source = "translate Korean to English: {ko}"
        objective.target = "{en}"
    objective.metrics = ("chrf", "bleu")
    objective.num_beams = 4
    objective.target_length = 128
    config.data.sequence_length = 256
    config.loss.label_smoothing = 0.1
    config.eval.every = 0  # generation takes longer than training: once, at the end
    return few_records(config) if "tiny" in words else config
