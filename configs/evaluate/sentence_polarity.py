r"""Whether a sentence about a film is positive or negative, without training: two files of sentences.

    tlx evaluate RUN --config=configs/evaluate/sentence_polarity.py \
        --config.data.records.train="('rt-polarity.*.gz',)" --config.objective.shots=4

The records are not part of tlx: rt-polarity.neg.gz and rt-polarity.pos.gz are the sentence polarity data set v1.0 of
Pang and Lee (2005). Works for any files with one sentence per line, one file per class. A tenth is held out and
scored; the examples are drawn from the rest. Hardware: any. ":tiny" after the name evaluates 16 records.
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
    objective.prompt = "{text}\nIt was"
    objective.choices = (" terrible", " great")
    objective.label = "file"
    objective.labels = ("rt-polarity.neg", "rt-polarity.pos")
    objective.normalization = "unconditional"
    objective.unconditional_prompt = "It was"
    records.format = "lines"
    records.encoding = "latin-1"
    records.train = ("rt-polarity.*.gz",)
    if words_of(arg, ("tiny",)):
        objective.limit = 16
    return config
