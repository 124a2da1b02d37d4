r"""Sentiment of film reviews: NSMC's file, or any table with a text and a label.

    tlx finetune --config=configs/finetune/reviews.py --from=BASE \
        --config.data.records.train="('ratings_train.txt',)" --config.data.records.limit=1000

A tenth of the records is held out for validation. `limit` is the number of the others to use, chosen by the
seed. A training row is packed with as many reviews as fit, about four: 8 rows are about 32 reviews.
Hardware: any; on 2 cores with a base of a few million parameters 1,000 labels take a minute.
":tiny" after the name is a few steps with short rows, to check that everything works.
"""

from ml_collections import ConfigDict

from tlx.recipes import few_records, words_of
from tlx.run import finetune_config


def get_config(arg: str = "") -> ConfigDict:
    """Return the config; `arg` is "" or "tiny"."""
    config = finetune_config("classification")
    config.objective.text = "document"
    config.objective.label = "label"
    records = config.data.records
    records.format = "tsv"
    records.train = ("ratings_train.txt",)
    config.data.sequence_length = 64
    config.objective.packing = True
    config.train.batch_size = 8
    config.eval.every = 500
    return few_records(config) if words_of(arg, ("tiny",)) else config
