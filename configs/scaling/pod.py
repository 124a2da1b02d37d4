"""Ladders at pod size: from 1e21 FLOPs of all runs together (the default) to 1e24, to be planned here.

    tlx scale plan --config=configs/scaling/pod.py
    tlx scale plan --config=configs/scaling/pod.py:1e24
    tlx scale run  --config=configs/scaling/pod.py --backend='command:srun tlx train --config={config} ...'

Llama's shape with 32,768 subwords, rows of 4,096 tokens, AdamW under CompleteP with WSD: every size has one
trunk, from which shorter runs branch off and cool down. One learning rate and one weight decay therefore
serve all sizes; tune them on the smallest (`tlx scale hparams`). The text is named by
--config.run.data.text.files. Hardware: the slices of SLICES, used at 40% of the makers' peak; README.md
beside this file has what each ladder costs. ":tiny" after the budget is the same with models that fit a
laptop.
"""

from typing import NamedTuple

from ml_collections import ConfigDict

from tlx.base.config import to_dict
from tlx.run import base_config
from tlx.scaling.ladder import LadderConfig


class Slice(NamedTuple):
    """The hardware of a ladder, and the layout of one run on it."""

    chip: str
    """Kind of chip."""

    chips: int
    """Number of chips."""

    rows: int
    """Rows of 4,096 tokens in a batch."""

    mesh: dict[str, int]
    """Devices along mesh axes; -1 is the rest."""


# By total FLOPs.
SLICES = {
    "1e21": Slice("v5e", 64, 64, {"fsdp": 16, "data": -1}),
    "1e22": Slice("v5p", 128, 128, {"fsdp": 32, "data": -1}),
    "1e23": Slice("v5p", 512, 512, {"fsdp": 64, "data": -1}),
    "1e24": Slice("v5p", 4096, 1024, {"fsdp": 256, "tensor": 4, "data": -1}),
}


def get_config(arg: str = "") -> ConfigDict:
    """Return {"ladder", "run"} for one of SLICES (default: 1e21), "tiny", or both joined by a colon."""
    words = [word for word in arg.split(":") if word]
    (budget,) = [word for word in words if word != "tiny"] or ["1e21"]
    ladder = _ladder(budget)
    run = _run(SLICES[budget])
    if "tiny" in words:
        _shrink(ladder, run)
    return ConfigDict({"ladder": ladder, "run": run})


def _ladder(budget: str) -> ConfigDict:
    hardware = SLICES[budget]
    ladder = ConfigDict(to_dict(LadderConfig()))
    ladder.name = f"pod-{budget}"
    ladder.budget = float(budget)
    ladder.accelerator = hardware.chip
    ladder.accelerators = hardware.chips
    ladder.mfu = 0.4
    ladder.num_budgets = 4
    ladder.budget_ratio = 4.0
    ladder.sizes = 6
    ladder.size_span = 4.0
    # Heads of 128, as many as the mesh divides; a layer for every 128 of width; 20 tokens per parameter.
    ladder.head_dim = 128
    ladder.aspect_ratio = 128.0
    ladder.depths = (4, 96)
    ladder.width_multiple = max(2, hardware.mesh.get("tensor", 1))
    ladder.ff_dim_ratio = 8 / 3
    ladder.ff_dim_multiple = 256
    ladder.learning_rate = 4e-3
    ladder.lr_base_width = 512
    ladder.lr_width_power = 0.0
    ladder.warmup_fraction = 0.02
    ladder.cooldown_fraction = 0.2
    ladder.min_steps = 500
    return ladder


def _run(hardware: Slice) -> ConfigDict:
    run = base_config("clm")
    run.tokenizer.vocab_size = 32_768
    run.data.sequence_length = 4096
    run.train.batch_size = hardware.rows
    run.data.source = "text"
    run.data.text.files = ("/data/corpus/*.jsonl.gz",)
    model = run.model
    model.width = 512
    model.num_layers = 4
    model.attention.num_heads = 4
    model.attention.qkv_bias = False
    model.attention.out_bias = False
    model.feedforward.bias = False
    model.feedforward.gated = True
    model.feedforward.activation = "silu"
    model.norm.kind = "rmsnorm"
    model.position.kind = "rotary"
    model.head.tied = False
    model.parametrization.name = "completep"
    model.parametrization.base_width = 512
    model.parametrization.base_layers = 4
    model.execution.remat = "full"
    run.optimizer.schedule.final_fraction = 0.0
    for axis, size in hardware.mesh.items():
        run.mesh[axis] = size
    run.eval.batches = 64
    return run


def _shrink(ladder: ConfigDict, run: ConfigDict) -> None:
    """Turn the ladder into one of models that fit a laptop."""
    ladder.budgets = (2e10, 4e10, 8e10)
    ladder.budget = 0.0
    ladder.accelerator = "cpu"
    ladder.accelerators = 1
    ladder.head_dim = 8
    ladder.aspect_ratio = 8.0
    ladder.depths = (2, 8)
    ladder.ff_dim_multiple = 8
    ladder.width_multiple = 1
    ladder.sizes = 3
    ladder.size_span = 2.0
    ladder.min_steps = 30
    ladder.seed_cells = 1
    ladder.learning_rate = 1e-2
    ladder.lr_base_width = 16
    run.tokenizer.kind = "bytes"
    run.data.source = "python"
    run.data.sequence_length = 64
    run.train.batch_size = 8
    run.eval.batches = 20
    run.mesh.fsdp = 1
    run.mesh.tensor = 1
    run.model.parametrization.base_width = 16
    run.model.parametrization.base_layers = 2
    run.model.execution.remat = "none"
