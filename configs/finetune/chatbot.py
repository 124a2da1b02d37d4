r"""An answer to a message, one turn each: songys' Korean chatbot, or any file with two such columns.

    tlx finetune --config=configs/finetune/chatbot.py --from=BASE \
        --config.data.records.train="('ChatbotData.csv',)"
    python -c 'import tlx; print(tlx.load("runs/finetune-chatbot").predict("12시 땡!"))'

For decoders and encoder-decoders. Two people rarely give the same answer, so chrF is low for good answers too:
use it to compare runs, and read predictions/validation.jsonl to judge quality.
Hardware: any. Expected: chrF 6.4 from scratch at 3 layers of 128 (README.md here has the command and the
scores of other methods). ":tiny" after the name is a run of a few steps.
"""

from ml_collections import ConfigDict

from tlx.recipes import few_records, words_of
from tlx.run import finetune_config


def get_config(arg: str = "") -> ConfigDict:
    """Return the config; `arg` is "" or "tiny"."""
    config = finetune_config("generation")
    objective = config.objective
    objective.source = "{Q}"
    objective.target = "{A}"
    objective.metrics = ("chrf", "bleu", "accuracy")
    config.data.sequence_length = 128
    objective.target_length = 48
    config.eval.every = 0  # generation takes longer than training: once, at the end
    return few_records(config) if words_of(arg, ("tiny",)) else config
