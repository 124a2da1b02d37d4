"""Megatron-LM's GPT-2: larger sizes of the same network, in the file format of GPT-2."""

import dataclasses

from tlx.models.families.family import resized
from tlx.models.families.gpt2 import BASE, size
from tlx.models.families.gpt2 import FAMILY as GPT2

FAMILY = dataclasses.replace(
    GPT2,
    name="megatron-gpt2",
    citation="Shoeybi et al. 2019, Megatron-LM, arXiv:1909.08053",
    base=resized(BASE, num_layers=24, width=1024, attention__num_heads=16, feedforward__ff_dim=4096),
    sizes={
        "345m": size(24, 1024, 16),
        "1.2b": size(40, 1536, 16),
        "2.5b": size(54, 1920, 20),
        "4.2b": size(64, 2304, 24),
        "8.3b": size(72, 3072, 32),
    },
)
