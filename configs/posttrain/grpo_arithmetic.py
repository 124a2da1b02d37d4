r"""Sums by trial and error: a model that gets few of them right is rewarded for right answers (GRPO).

    python -c 'import json; [print(json.dumps({"source": f"{a}+{b}=", "target": str(a + b)})) \
        for a in range(10) for b in range(10)]' > sums.jsonl
    tlx finetune --config=configs/posttrain/grpo_arithmetic.py:base --workdir=runs/sums \
        --config.data.records.train="('sums.jsonl',)" --config.data.records.validation="('sums.jsonl',)"
    tlx finetune --config=configs/posttrain/grpo_arithmetic.py --from=runs/sums \
        --config.data.records.train="('sums.jsonl',)" --config.data.records.validation="('sums.jsonl',)"

":base" is a decoder of two layers that is trained on the sums for a moment only. What follows sees no answer: each
step samples 16 answers to each of the 100 sums, is told which are right, and makes five updates. objective.average,
scale, clip_high and importance are the choices of Dr. GRPO, DAPO and GSPO. ":rloo", ":online_dpo" and ":gkd" (with
objective.teacher) are the other objectives, each with its own keys. README.md here has the formulas.
Hardware: any. Results: README.md here. ":tiny" after the name is a run of a few steps.
"""

from ml_collections import ConfigDict

from tlx.recipes import few_records, words_of
from tlx.run import finetune_config

# Objectives in place of grpo.
OTHERS = ("rloo", "online_dpo", "gkd")


def get_config(arg: str = "") -> ConfigDict:
    """Return the config; `arg` is "", "base", or an objective, and perhaps "tiny", joined by a colon."""
    words = words_of(arg, ("base", *OTHERS, "tiny"))
    is_base = "base" in words
    (objective,) = [word for word in words if word in OTHERS] or ["grpo"]
    config = finetune_config("generation" if is_base else objective)
    config.objective.target_length = 4
    config.objective.metrics = ("accuracy",)
    config.data.sequence_length = 16
    config.data.records.epochs = 0.0
    config.eval.every = 0
    config.log.print_every = 10
    config.train.batch_size = 20
    config.optimizer.weight_decay = 0.0
    if is_base:
        config.tokenizer.kind = "bytes"
        model = config.model
        model.kind = "decoder"
        model.num_layers = 2
        model.width = 64
        model.attention.num_heads = 4
        model.position.kind = "rotary"
        config.train.steps = 40
        config.optimizer.learning_rate = 3e-3
        config.optimizer.schedule.name = "constant"
    else:
        config.objective.num_answers = 16
        config.objective.minibatches = 5
        config.train.batch_size = 100
        config.train.steps = 100
        config.optimizer.learning_rate = 1e-3
        # Where nearly all answers are right, gradients are near 0 and Adam would divide them by as little.
        config.optimizer.eps = 1e-5
    if "tiny" in words:
        few_records(config)
        config.data.records.epochs = 0.0
        config.train.steps = 2
        if not is_base:
            config.objective.minibatches = 2
    return config
