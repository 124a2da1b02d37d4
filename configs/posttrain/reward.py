r"""A reward model: which of two answers is better, from pairs, rankings or ratings of answers.

    tlx finetune --config=configs/posttrain/reward.py --from=BASE --config.data.records.train="('pairs.jsonl',)"
    tlx finetune --config=configs/posttrain/reward.py:hh --from=BASE \
        --config.data.records.train="('hh_harmless_test.jsonl.gz',)"
    python -c 'import tlx; print(tlx.load("runs/posttrain-reward").reward("How are you?", ["Fine.", "Go."]))'

BASE is a decoder, an encoder or an encoder-decoder, as a rule one that was tuned on answers (finetune/chat). Records
have prompt, chosen and rejected; ":hh" reads whole conversations as HH-RLHF has them, ":ranked" a prompt with a list
of answers and their ranking, ":rated" a prompt, an answer ("completion") and its score. README.md here has the
layouts of other data sets. One epoch: a reward model overfits in the second one (Ouyang et al. 2022).
Hardware: any. Expected: README.md here has accuracies beside baselines. ":tiny" after the name is a few steps.
"""

from ml_collections import ConfigDict

from tlx.recipes import few_records, words_of
from tlx.run import finetune_config

LAYOUTS = ("hh", "ranked", "rated")


def get_config(arg: str = "") -> ConfigDict:
    """Return the config; `arg` is "", one of LAYOUTS, "tiny", or a layout and "tiny" joined by a colon."""
    words = words_of(arg, (*LAYOUTS, "tiny"))
    config = finetune_config("reward")
    if "hh" in words:
        config.objective.prompt = ""
        config.objective.turns = ("\n\nHuman:", "\n\nAssistant:")
    elif "ranked" in words:
        config.objective.records = "ranked"
    elif "rated" in words:
        config.objective.records = "rated"
    config.data.sequence_length = 512
    config.data.records.epochs = 1.0
    config.train.batch_size = 64  # prompts
    optimizer = config.optimizer
    optimizer.learning_rate = 9e-6
    optimizer.beta2 = 0.95
    optimizer.eps = 1e-5
    optimizer.weight_decay = 0.0
    optimizer.schedule.name = "cosine"
    optimizer.schedule.warmup = 0.03
    optimizer.schedule.final_fraction = 0.1
    config.model.dropout = 0.0
    return few_records(config) if "tiny" in words else config
