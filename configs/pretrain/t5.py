"""T5: span corruption (Raffel et al. 2020), base, and the objectives that its paper compares with it.

    tlx train --config=configs/pretrain/t5.py
    tlx train --config=configs/pretrain/t5.py:tiny
    tlx train --config=configs/pretrain/t5.py:deshuffling    also bert, mask, spans, drop (noise of table 3)
    tlx train --config=configs/pretrain/t5.py:1.1            version 1.1: gated, untied, no dropout

":tiny" may follow any of them (":bert:tiny"). Hardware: 16 TPU v3 chips, two days. Expected after
fine-tuning: GLUE 83.28 for spans of three (base, 2^19 steps), 73.17 for deshuffling, 82.96 for bert. The
learning rate is 1 / sqrt(max(step, 10,000)): constant at 0.01 for 10,000 steps, without a rise.
"""

from ml_collections import ConfigDict

from tlx.recipes import published, sized, words_of

# Objective of each variant; those of "denoising" are its styles of noise.
OBJECTIVES = {
    "1.1": "span_corruption",
    "deshuffling": "deshuffling",
    "bert": "denoising",
    "mask": "denoising",
    "spans": "denoising",
    "drop": "denoising",
}


def get_config(arg: str = "") -> ConfigDict:
    """Return the config; `arg` is a variant, "tiny" for a laptop, or both joined by a colon."""
    words = words_of(arg, (*OBJECTIVES, "tiny"))
    (variant,) = [word for word in words if word != "tiny"] or [""]
    family = "t5-1.1" if variant == "1.1" else "t5"
    config = published(OBJECTIVES.get(variant, "span_corruption"), family, "base")
    if config.objective.name == "denoising":
        config.objective.style = variant
    if variant == "1.1":
        config.model.dropout = 0.0
        config.model.attention.dropout = 0.0
        config.model.feedforward.dropout = 0.0
    config.tokenizer.model_type = "unigram"
    config.data.source = "tfds"
    config.data.tfds.name = "c4/en"
    config.data.sequence_length = 512
    config.data.add_eos = False
    config.train.batch_size = 128
    config.train.steps = 2**19
    optimizer = config.optimizer
    optimizer.name = "adafactor"
    optimizer.learning_rate = 1e-2
    optimizer.schedule.name = "inverse_sqrt"
    optimizer.schedule.warmup = 10_000
    optimizer.schedule.warmup_shape = "constant"
    optimizer.schedule.final_fraction = 0.0
    optimizer.weight_decay = 0.0
    config.train.clip_norm = None
    return sized(config, "tiny" if "tiny" in words else "")
