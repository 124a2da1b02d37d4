r"""Instruction tuning: conversations, or questions with answers; only the answers have a loss.

    tlx finetune --config=configs/finetune/chat.py --from=BASE --config.data.records.train="('said.jsonl',)"
    tlx finetune --config=configs/finetune/chat.py:self_instruct --from=BASE \
        --config.data.records.train="('seed_tasks.jsonl',)"
    tlx chat runs/finetune-chat

BASE is a decoder. A record has "messages", a list of {"role": "system", "user" or "assistant", "content"};
for ShareGPT's format set objective.messages=conversations, objective.role=from and objective.content=value.
objective.prompt and objective.answer are templates for records with columns ("self_instruct": instruction,
input and output). objective.template is a name in tlx/text/chat.py: words, alpaca, chatml, llama2, llama3,
zephyr, gemma (that of an imported base, if it has one); objective.format is a custom template. Either is saved
with the run. objective.metrics=('chrf',) also generates the last answer of each validation record and scores it.
Hardware: any. Expected: no figures are recorded yet. ":tiny" after the name is a run of a few steps.
"""

from ml_collections import ConfigDict

from tlx.recipes import few_records, words_of
from tlx.run import finetune_config


def get_config(arg: str = "") -> ConfigDict:
    """Return the config; `arg` is "", "self_instruct", "tiny", or both joined by a colon."""
    words = words_of(arg, ("self_instruct", "tiny"))
    config = finetune_config("chat")
    config.data.sequence_length = 1024
    config.objective.target_length = 256
    if "self_instruct" in words:
        config.objective.prompt = "{instruction}\n{instances.0.input}"
        config.objective.answer = "{instances.0.output}"
    return few_records(config) if "tiny" in words else config
