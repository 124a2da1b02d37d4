r"""InstructGPT (Ouyang et al. 2022): demonstrations, a reward model of ranked answers, and PPO with pretraining.

    tlx finetune --config=configs/posttrain/instructgpt.py:sft --from=BASE --workdir=runs/sft \
        --config.data.records.train="('demonstrations.jsonl',)"
    tlx finetune --config=configs/posttrain/instructgpt.py:reward --from=runs/sft --workdir=runs/rm \
        --config.data.records.train="('rankings.jsonl',)"
    tlx finetune --config=configs/posttrain/instructgpt.py:ppo --from=runs/sft --workdir=runs/ppo \
        --config.objective.reward_run=runs/rm --config.data.records.train="('prompts.jsonl',)" \
        --config.data.text.files="('pretraining/*.txt',)"

BASE is a decoder. Demonstrations have a prompt and an answer; rankings a prompt, a list of answers and the rank of
each; prompts a prompt and an answer, which may be empty. ":ppo" starts its value network from the reward model, and
adds gradients of the pretraining text (PPO-ptx) with the paper's coefficient. Values are the 1.3B model's where sizes
differ; the paper does not print the policy's learning rate, for which the value network's stands. Not in here: the
average of the parameters (.992), and that its dropout is on residuals alone.
Hardware: 8 GPUs of 80 GB for 1.3B. ":tiny" after the name is a run of a few steps.
"""

from ml_collections import ConfigDict

from tlx.recipes import few_records, words_of
from tlx.run import finetune_config

STEPS = ("sft", "reward", "ppo")


def get_config(arg: str = "") -> ConfigDict:
    """Return the config; `arg` is one of STEPS ("" is "ppo"), "tiny", or both joined by a colon."""
    words = words_of(arg, (*STEPS, "tiny"))
    make = {"sft": _sft, "reward": _reward, "ppo": _ppo}
    step = next((word for word in words if word in STEPS), "ppo")
    config = make[step]()
    config.optimizer.beta2 = 0.95
    config.optimizer.weight_decay = 0.0
    config.eval.every = 0
    return _tiny(config) if "tiny" in words else config


def _tiny(config: ConfigDict) -> ConfigDict:
    """Return a run of a few steps on short rows, with two updates of each step of PPO."""
    few_records(config)
    config.data.sequence_length = 64
    if config.objective.name != "reward":
        config.objective.target_length = 16
    if config.objective.name == "ppo":
        config.objective.minibatches = 2
        config.data.records.epochs = 0.0
        config.train.steps = 2
        config.optimizer.schedule.warmup = 0
    return config


def _texts(config: ConfigDict) -> None:
    """Name the columns of prompts and answers, and the lengths: 2,048 tokens, of which 1,024 are the answer's."""
    config.objective.source = "{prompt}"
    config.objective.target = "{answer}"
    config.objective.target_length = 1024
    config.data.sequence_length = 2048


def _sft() -> ConfigDict:
    config = finetune_config("generation")
    _texts(config)
    config.model.dropout = 0.2
    config.data.records.epochs = 16.0
    config.train.batch_size = 32
    config.optimizer.learning_rate = 9.65e-6
    config.optimizer.schedule.name = "cosine"
    config.optimizer.schedule.warmup = 0
    config.optimizer.schedule.final_fraction = 0.1
    return config


def _reward() -> ConfigDict:
    config = finetune_config("reward")
    config.objective.records = "ranked"
    config.model.dropout = 0.0
    config.data.sequence_length = 2048
    config.data.records.epochs = 1.0
    config.train.batch_size = 64  # prompts, each with its 4 to 9 answers
    config.optimizer.learning_rate = 9e-6
    config.optimizer.schedule.name = "cosine"
    config.optimizer.schedule.warmup = 0
    config.optimizer.schedule.final_fraction = 0.1
    return config


def _ppo() -> ConfigDict:
    config = finetune_config("ppo")
    _texts(config)
    objective = config.objective
    objective.temperature = 1.0
    objective.beta = 0.02
    objective.epochs = 1
    objective.minibatches = 8
    objective.clip = 0.2
    objective.discount = 1.0
    objective.value = "network"
    objective.value_start = "reward_run"
    objective.pretraining_weight = 27.8
    objective.pretraining_rows = 8
    config.model.dropout = 0.0
    config.data.source = "text"
    config.data.records.epochs = 0.0
    config.train.batch_size = 512  # prompts, with an answer each
    config.train.steps = 500  # 256,000 answers
    config.optimizer.learning_rate = 9e-6
    config.optimizer.schedule.name = "constant"
    config.optimizer.schedule.warmup = 80  # updates: 10 steps
    return config
