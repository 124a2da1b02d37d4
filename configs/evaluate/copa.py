r"""Which of two sentences is the cause or the effect of another, without training: KoBEST's COPA.

    tlx evaluate RUN --config=configs/evaluate/copa.py --config.objective.shots=4 \
        --config.data.records.train="('COPA.train.tsv',)" \
        --config.data.records.validation="('COPA.dev.tsv',)"

The records are not part of tlx: they are the files of KoBEST (Kim et al. 2022).
Hardware: any. ":tiny" after the name evaluates 16 records.
"""

from ml_collections import ConfigDict

from tlx.evaluation.few_shot import FewShotConfig
from tlx.recipes import words_of
from tlx.run.config import config_dict


def get_config(arg: str = "") -> ConfigDict:
    """Return the config; `arg` is "" or "tiny"."""
    config = config_dict(FewShotConfig())
    objective = config.objective
    records = config.data.records
    objective.prompt = "{sentence} {question}:"
    objective.choices = (" {1}", " {2}")
    objective.label = "Answer"
    objective.labels = ("1", "2")
    objective.normalization = "bytes"
    records.format = "tsv"
    records.train = ("COPA.train.tsv",)
    records.validation = ("COPA.dev.tsv",)
    if words_of(arg, ("tiny",)):
        objective.limit = 16
    return config
