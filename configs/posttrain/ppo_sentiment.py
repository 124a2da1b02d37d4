r"""Sentences that end well: a language model is rewarded by a classifier of sentiment (PPO; Ziegler et al. 2019).

    python -c 'import gzip, json, sys; [print(json.dumps({"text": line.strip(), "label": name, \
        "start": " ".join(line.split()[:4]), "rest": " ".join(line.split()[4:])})) for name in ("neg", "pos") \
        for line in gzip.open(f"{sys.argv[1]}/rt-polarity.{name}.gz", "rt", encoding="latin-1") \
        if len(line.split()) > 6]' sentence_polarity > sentences.jsonl
    tlx finetune --config=configs/posttrain/ppo_sentiment.py:classifier --workdir=runs/classifier \
        --config.data.records.train="('sentences.jsonl',)"
    tlx finetune --config=configs/posttrain/ppo_sentiment.py:base --workdir=runs/sentences \
        --config.data.records.train="('sentences.jsonl',)"
    tlx finetune --config=configs/posttrain/ppo_sentiment.py --from=runs/sentences \
        --config.objective.reward_run=runs/classifier --config.data.records.train="('sentences.jsonl',)"

Records are sentences of reviews with their label; ":base" is a decoder that continues their first four words, from
scratch, ":classifier" the judge of the whole. What follows samples a continuation of each beginning; its reward is
the log-odds of "pos". The first step samples from the base itself: its `reward` and `reward_std` are what the rise is
measured from, and in which unit. The coefficient of the KL is fixed, and large enough for the KL to settle.
Hardware: any. Results: README.md here. ":tiny" after the name is a run of a few steps.
"""

from ml_collections import ConfigDict

from tlx.recipes import few_records, words_of
from tlx.run import finetune_config

STEPS = ("base", "classifier", "ppo")


def get_config(arg: str = "") -> ConfigDict:
    """Return the config; `arg` is one of STEPS ("" is "ppo"), "tiny", or both joined by a colon."""
    words = words_of(arg, (*STEPS, "tiny"))
    step = next((word for word in words if word in STEPS), "ppo")
    task = {"base": "generation", "classifier": "classification", "ppo": "ppo"}[step]
    config = finetune_config(task)
    config.data.sequence_length = 48
    config.eval.every = 0
    config.log.print_every = 10
    config.train.batch_size = 64
    config.optimizer.weight_decay = 0.0
    if step == "classifier":
        _fresh_model(config)
        config.optimizer.learning_rate = 1e-3
    else:
        config.objective.source = "{start}"
        config.objective.target = "{rest}"
        config.objective.target_length = 24
    if step == "base":
        _fresh_model(config)
        config.model.width = 64
        config.tokenizer.vocab_size = 1024
        config.optimizer.learning_rate = 3e-3
        config.data.records.epochs = 2.0
    if step == "ppo":
        _ppo(config)
    return _tiny(config) if "tiny" in words else config


def _fresh_model(config: ConfigDict) -> None:
    """Give a task a small decoder and a vocabulary, both trained from scratch."""
    config.tokenizer.kind = "sentencepiece"
    config.tokenizer.vocab_size = 2048
    model = config.model
    model.kind = "decoder"
    model.num_layers = 2
    model.width = 128
    model.attention.num_heads = 4
    model.position.kind = "rotary"
    model.dropout = 0.1


def _ppo(config: ConfigDict) -> None:
    """Set PPO's values: mostly those of Ziegler et al. 2019, with a learning rate for a small model."""
    objective = config.objective
    objective.reward_label = "pos"
    objective.reward_text = "{prompt} {answer}"
    # The best policy is the base times exp(reward / beta). With rewards of deviation s it is about s^2 / (2 beta^2)
    # nats away: at 0.1 nothing would hold the policy within 6 nats.
    objective.beta = 0.3
    objective.gae_lambda = 1.0
    objective.minibatches = 4
    objective.epochs = 2
    config.log.every = 1
    config.model.dropout = 0.0
    config.data.records.epochs = 0.0
    config.train.batch_size = 256
    config.train.steps = 40
    config.optimizer.learning_rate = 1e-3
    config.optimizer.eps = 1e-5
    config.optimizer.schedule.warmup = 0


def _tiny(config: ConfigDict) -> ConfigDict:
    """Return a run of a few steps."""
    few_records(config)
    if config.objective.name == "ppo":
        config.data.records.epochs = 0.0
        config.train.steps = 2
    else:
        config.tokenizer.vocab_size = 400
    return config
