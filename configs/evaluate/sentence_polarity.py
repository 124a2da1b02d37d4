"""Whether a sentence about a film is for or against it, asked without training: two files of sentences.

    tlx evaluate RUN --config=configs/evaluate/sentence_polarity.py \\
        --config.data.records.train="('rt-polarity.*.gz',)" --config.objective.shots=4
Any files with one sentence a line do, one file a class. A tenth is held out and scored, the examples are of
the rest. Hardware: any. ":tiny" behind it asks 16.
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
    asked.prompt = "{text}\nIt was"
    asked.choices = (" terrible", " great")
    asked.label = "file"
    asked.labels = ("rt-polarity.neg", "rt-polarity.pos")
    asked.normalization = "unconditional"
    asked.unconditional_prompt = "It was"
    records.format = "lines"
    records.encoding = "latin-1"
    records.train = ("rt-polarity.*.gz",)
    if words_of(arg, ("tiny",)):
        asked.limit = 16
    return config
