r"""Tags by ELMo: a frozen bilm, a learned mix of its layers and LSTMs of the task's own (Peters et al. 2018).

    tlx finetune --config=configs/finetune/elmo.py --from=ELMO \
        --config.data.records.train="('wnut17train.conll',)" \
        --config.data.records.validation="('emerging.dev.conll',)"

ELMO is a run of configs/pretrain/elmo.py, or a folder with the released options, weights and words. Any other task
reads a bilm too: `--config.adapt.method=head` keeps it frozen, "full" tunes it, and objective.head.lstm_layers is the
size of the task's own model (0: the head alone). The paper's taggers are Adam at 1e-3 with dropout .5.
Hardware: any. ":tiny" after the name is a run of a few steps.
"""

from ml_collections import ConfigDict

from tlx.recipes import few_records, words_of
from tlx.run import finetune_config


def get_config(arg: str = "") -> ConfigDict:
    """Return the config; `arg` is "" or "tiny"."""
    words = words_of(arg, ("tiny",))
    config = finetune_config("token_classification")
    records = config.data.records
    records.format = "conll"
    records.epochs = 25.0
    config.data.sequence_length = 128
    config.adapt.method = "head"
    config.model.dropout = 0.5
    config.train.batch_size = 32
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.weight_decay = 0.0
    return few_records(config) if "tiny" in words else config
