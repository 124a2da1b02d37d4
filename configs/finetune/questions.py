r"""Answers that are spans of a context: SQuAD 1.1 and 2.0, XQuAD, COVID-QA, or any file of this format.

    tlx finetune --config=configs/finetune/questions.py --from=BASE \
        --config.data.records.train="('train-v1.1.json',)" \
        --config.data.records.validation="('dev-v1.1.json',)"
    tlx finetune --config=configs/finetune/questions.py:no_answer --from=BASE ...       SQuAD 2.0

Contexts longer than a row are read in overlapping windows. In COVID-QA 17% of the offsets are wrong: the
answer is searched for nearby, and --config.objective.misplaced=skip leaves out the ones that are not found.
Hardware: any. Expected: the score in README.md. ":tiny" after the name is a run of a few steps.
"""

from ml_collections import ConfigDict

from tlx.recipes import few_records, words_of
from tlx.run import finetune_config


def get_config(arg: str = "") -> ConfigDict:
    """Return the config; `arg` is "", "no_answer", "tiny", or both joined by a colon.

    With "no_answer" some questions have no answer.
    """
    words = words_of(arg, ("no_answer", "tiny"))
    config = finetune_config("question_answering")
    records = config.data.records
    records.format = "squad"
    records.group_column = "context"
    records.epochs = 2.0
    config.data.sequence_length = 384
    config.objective.no_answer = "no_answer" in words
    return few_records(config) if "tiny" in words else config
