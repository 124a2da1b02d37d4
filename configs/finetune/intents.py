r"""The intent of a request, one of 150 or none of them: CLINC150, or any table with a text and a label.

    tlx finetune --config=configs/finetune/intents.py --from=BASE \
        --config.data.records.train="('data_full.json::train', 'data_full.json::oos_train')" \
        --config.data.records.validation="('data_full.json::val', 'data_full.json::oos_val')"

The scores include the accuracy on requests with an intent, and the recall of those without (class "oos").
Hardware: any; on 2 cores with a base of a few million parameters three minutes.
":tiny" after the name is a run of a few steps.
"""

from ml_collections import ConfigDict

from tlx.recipes import few_records, words_of
from tlx.run import finetune_config


def get_config(arg: str = "") -> ConfigDict:
    """Return the config; `arg` is "" or "tiny"."""
    config = finetune_config("classification")
    config.objective.packing = True
    config.objective.out_of_scope_label = "oos"
    records = config.data.records
    records.format = "json"
    records.columns = ("text", "label")
    config.data.sequence_length = 64
    config.train.batch_size = 8
    config.eval.every = 500
    return few_records(config) if words_of(arg, ("tiny",)) else config
