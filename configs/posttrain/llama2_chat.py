r"""LLaMA-2-Chat (Touvron et al. 2023): two reward models with margins, rejection sampling, then PPO.

    tlx finetune --config=configs/posttrain/llama2_chat.py:sft --from=BASE --workdir=runs/sft \
        --config.data.records.train="('demonstrations.jsonl',)"
    tlx finetune --config=configs/posttrain/llama2_chat.py:reward --from=runs/sft --workdir=runs/helpful \
        --config.data.records.train="('helpful.jsonl',)"
    tlx finetune --config=configs/posttrain/llama2_chat.py:reward --from=runs/sft --workdir=runs/safe \
        --config.data.records.train="('safe.jsonl',)"
    tlx evaluate runs/sft --best_of=16 --split=train --reward=runs/helpful --safety=runs/safe --gate=0.15 \
        --temperature=1.2 --predictions=best.jsonl
    tlx finetune --config=configs/posttrain/llama2_chat.py:sft --from=runs/sft --workdir=runs/rejection \
        --config.data.records.train="('best.jsonl',)"
    tlx finetune --config=configs/posttrain/llama2_chat.py:ppo --from=runs/rejection --workdir=runs/chat \
        --config.objective.reward_run=runs/helpful --config.data.records.train="('prompts.jsonl',)"

Ghost attention, by which an instruction of the first message holds for the whole conversation, is of conversations
(records with "messages"; runs/dialogues is a model that finetune/chat.py made of them):

    tlx data ghost --config=configs/posttrain/llama2_chat.py:ghost --from=runs/dialogues --to=obeyed \
        --instructions=instructions.tsv --config.data.records.train="('conversations.jsonl',)"
    tlx finetune --config=configs/posttrain/llama2_chat.py:ghost --from=runs/dialogues --workdir=runs/ghost \
        --config.data.records.train="('obeyed/train.jsonl',)"

Demonstrations have a prompt and an answer; comparisons a prompt, a chosen and a rejected answer, and the margin, 1,
2/3, 1/3 or 0. Rejection sampling made V1 to V4, and PPO followed it in V5. The gate between both reward models is in
rejection sampling; PPO has one reward run here.
Hardware: a pod for 7B. ":tiny" after the name is a run of a few steps.
"""

from ml_collections import ConfigDict

from tlx.recipes import few_records, words_of
from tlx.run import finetune_config

STEPS = ("sft", "reward", "ppo", "ghost")


def get_config(arg: str = "") -> ConfigDict:
    """Return the config; `arg` is one of STEPS ("" is "ppo"), "tiny", or both joined by a colon."""
    words = words_of(arg, (*STEPS, "tiny"))
    make = {"sft": _sft, "reward": _reward, "ppo": _ppo, "ghost": _ghost}
    step = next((word for word in words if word in STEPS), "ppo")
    config = make[step]()
    config.model.dropout = 0.0
    config.optimizer.beta2 = 0.95
    config.optimizer.eps = 1e-5
    config.optimizer.weight_decay = 0.1
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
    return config


def _texts(config: ConfigDict) -> None:
    """Name the columns of prompts and answers, and the lengths."""
    config.objective.source = "{prompt}"
    config.objective.target = "{answer}"
    config.objective.target_length = 1024
    config.data.sequence_length = 4096


def _sft() -> ConfigDict:
    config = finetune_config("generation")
    _texts(config)
    _tuning(config)
    return config


def _ghost() -> ConfigDict:
    config = finetune_config("chat")
    config.objective.loss_on = "last_answer"
    config.objective.target_length = 1024
    config.data.sequence_length = 4096
    _tuning(config)
    return config


def _tuning(config: ConfigDict) -> None:
    """Set the paper's values of supervised tuning."""
    config.data.records.epochs = 2.0
    config.train.batch_size = 64
    config.optimizer.learning_rate = 2e-5
    config.optimizer.schedule.name = "cosine"
    config.optimizer.schedule.warmup = 0
    config.optimizer.schedule.final_fraction = 0.1


def _reward() -> ConfigDict:
    config = finetune_config("reward")
    config.objective.margin = "margin"
    config.data.sequence_length = 4096
    config.data.records.epochs = 1.0
    config.train.batch_size = 512  # pairs
    config.optimizer.learning_rate = 1e-5  # 5e-6 for 70B
    config.optimizer.schedule.name = "cosine"
    config.optimizer.schedule.warmup = 0.03
    config.optimizer.schedule.final_fraction = 0.1
    return config


def _ppo() -> ConfigDict:
    config = finetune_config("ppo")
    _texts(config)
    objective = config.objective
    objective.temperature = 1.0
    objective.beta = 0.01  # 0.005 for 34B and 70B
    objective.epochs = 1
    objective.minibatches = 8
    objective.clip = 0.2
    objective.whiten_rewards = True
    objective.value = "network"
    objective.value_start = "reward_run"
    config.data.records.epochs = 0.0
    config.train.batch_size = 512
    config.train.steps = 300  # the paper's 200 to 400 iterations
    config.train.clip_norm = 1.0
    config.optimizer.learning_rate = 1e-6
    config.optimizer.schedule.name = "constant"
    config.optimizer.schedule.warmup = 0
    return config
