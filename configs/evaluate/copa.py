"""Which of two sentences is the cause or the effect of another, asked without training: KoBEST's COPA.

    tlx evaluate RUN --config=configs/evaluate/copa.py --config.objective.shots=4 \\
        --config.data.records.train="('COPA.train.tsv',)" \\
        --config.data.records.validation="('COPA.dev.tsv',)"
Hardware: any. ":tiny" behind it asks 16.
"""

from ml_collections import ConfigDict

from tlx.evaluation.few_shot import FewShotConfig
from tlx.recipes import words_of
from tlx.run.config import config_dict


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: "" or "tiny"."""
    config = config_dict(FewShotConfig())
    asked = config.objective
    records = config.data.records
    asked.prompt = "{sentence} {question}:"
    asked.choices = (" {1}", " {2}")
    asked.label = "Answer"
    asked.labels = ("1", "2")
    asked.normalization = "bytes"
    records.format = "tsv"
    records.train = ("COPA.train.tsv",)
    records.validation = ("COPA.dev.tsv",)
    if words_of(arg, ("tiny",)):
        asked.limit = 16
    return config
