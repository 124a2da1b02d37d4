"""T5: corrupted spans (Raffel et al. 2020), base, and the objectives that its paper compares with them.

    tlx train --config=configs/pretrain/t5.py
    tlx train --config=configs/pretrain/t5.py:tiny
    tlx train --config=configs/pretrain/t5.py:deshuffling    also bert, mask, spans, drop (noise of table 3)
    tlx train --config=configs/pretrain/t5.py:1.1            version 1.1: gated, untied, no dropout

":tiny" goes behind any of them (":bert:tiny"). Hardware: 16 TPU v3 chips, two days. Expected after
fine-tuning: GLUE 83.28 for spans of three (base, 2^19 steps), 73.17 for deshuffling, 82.96 for bert. The
rate is the paper's after its first 10,000 steps, in which it stays at .01; here it rises to that.
"""

from ml_collections import ConfigDict

from tlx.recipes import published, sized


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: one of the variants, "tiny", or both joined by a colon."""
    words = [word for word in arg.split(":") if word]
    (variant,) = [word for word in words if word != "tiny"] or [""]
    objective = {"": "span_corruption", "1.1": "span_corruption", "deshuffling": "deshuffling"}
    family = "t5-1.1" if variant == "1.1" else "t5"
    config = published(objective.get(variant, "denoising"), family, "base")
    if variant not in objective:
        config.objective.style = variant
    if variant == "1.1":
        config.model.dropout = config.model.attention.dropout = config.model.feedforward.dropout = 0.0
    config.tokenizer.model_type = "unigram"
    config.data.source, config.data.tfds.name = "tfds", "c4/en"
    config.data.sequence_length, config.train.batch_size, config.train.steps = 512, 128, 2**19
    optimizer = config.optimizer
    optimizer.name = "adafactor"
    optimizer.learning_rate, optimizer.schedule.name = 1e-2, "inverse_sqrt"
    optimizer.schedule.warmup, optimizer.schedule.final_fraction = 10_000, 0.0
    optimizer.weight_decay, config.train.clip_norm = 0.0, None
    return sized(config, "tiny" if "tiny" in words else "")
