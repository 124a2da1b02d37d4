r"""DPO and its relatives: a model is tuned on preferred answers without a reward model.

    tlx finetune --config=configs/posttrain/dpo.py --from=BASE --config.data.records.train="('pairs.jsonl',)"
    tlx finetune --config=configs/posttrain/dpo.py:kto --from=BASE --config.data.records.train="('liked.jsonl',)"
    tlx chat runs/posttrain-dpo

BASE is a decoder or an encoder-decoder that was tuned on answers (finetune/chat, with its chat template in
objective.template). It is the frozen reference too; with --config.adapt.method=lora the reference is the base without
the adapter, at no memory of its own. Records have prompt, chosen and rejected; ":hh" reads whole conversations as
HH-RLHF has them, ":kto" a prompt, a completion and whether it was liked ("label"). objective.loss is dpo, robust,
ipo, ipo_sum, hinge, orpo, simpo or kto; README.md here has the formulas. data.sequence_length holds both answers
with their prompts.
Hardware: any. Expected: a loss of 0.6931 in the first step. ":tiny" after the name is a run of a few steps.
"""

from ml_collections import ConfigDict

from tlx.recipes import few_records, words_of
from tlx.run import finetune_config

LAYOUTS = ("hh", "kto")


def get_config(arg: str = "") -> ConfigDict:
    """Return the config; `arg` is "", one of LAYOUTS, "tiny", or a layout and "tiny" joined by a colon."""
    words = words_of(arg, (*LAYOUTS, "tiny"))
    config = finetune_config("preference")
    if "hh" in words:
        config.objective.prompt = ""
        config.objective.turns = ("\n\nHuman:", "\n\nAssistant:")
    elif "kto" in words:
        config.objective.loss = "kto"
        config.objective.records = "unpaired"
    config.data.sequence_length = 1024
    config.data.records.epochs = 1.0
    config.train.batch_size = 64  # rows
    optimizer = config.optimizer
    optimizer.learning_rate = 1e-6
    optimizer.weight_decay = 0.0
    return few_records(config) if "tiny" in words else config
