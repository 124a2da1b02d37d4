"""Ladders at pod size: from 1e21 FLOPs of all runs together (the default) to 1e24, to be planned here.

    tlx scale plan --config=configs/scaling/pod.py
    tlx scale plan --config=configs/scaling/pod.py:1e24
    tlx scale run  --config=configs/scaling/pod.py --backend='command:srun tlx train --config={config} ...'

Llama's shape with 32,768 subwords, rows of 4,096 tokens, AdamW under CompleteP with WSD: every size has one
trunk, from which shorter runs branch off and cool down. One rate and one decay therefore serve all sizes;
tune them on the smallest (`tlx scale hparams`). The text is named by --config.run.data.text.files.
Hardware: the slices of SLICES, used at 40% of the makers' peak; README.md beside this file has what each
ladder costs. ":tiny" behind it is the same with models that fit a laptop.
"""

from ml_collections import ConfigDict

from tlx.base.config import to_dict
from tlx.run import base_config
from tlx.scaling.ladder import LadderConfig

# Total FLOPs to chip, number of chips, rows of 4,096 tokens in a batch, and the mesh of one run.
SLICES = {
    "1e21": ("v5e", 64, 64, {"fsdp": 16, "data": -1}),
    "1e22": ("v5p", 128, 128, {"fsdp": 32, "data": -1}),
    "1e23": ("v5p", 512, 512, {"fsdp": 64, "data": -1}),
    "1e24": ("v5p", 4096, 1024, {"fsdp": 256, "tensor": 4, "data": -1}),
}


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: one of SLICES (1e21), "tiny", or both joined by a colon."""
    words = [word for word in arg.split(":") if word]
    (budget,) = [word for word in words if word != "tiny"] or ["1e21"]
    chip, count, rows, mesh = SLICES[budget]

    ladder = ConfigDict(to_dict(LadderConfig()))
    ladder.name = f"pod-{budget}"
    ladder.budget, ladder.accelerator, ladder.accelerators, ladder.mfu = float(budget), chip, count, 0.4
    ladder.num_budgets, ladder.budget_ratio, ladder.sizes, ladder.size_span = 4, 4.0, 6, 4.0
    # Heads of 128, as many as the mesh divides; a layer for every 128 of width; 20 tokens a parameter.
    ladder.head_dim, ladder.aspect_ratio, ladder.depths = 128, 128.0, (4, 96)
    ladder.width_multiple = max(2, mesh.get("tensor", 1))
    ladder.ff_dim_ratio, ladder.ff_dim_multiple = 8 / 3, 256
    ladder.learning_rate, ladder.lr_base_width, ladder.lr_width_power = 4e-3, 512, 0.0
    ladder.warmup_fraction, ladder.cooldown_fraction, ladder.min_steps = 0.02, 0.2, 500

    run = base_config("clm")
    run.tokenizer.vocab_size = 32_768
    run.data.sequence_length, run.train.batch_size = 4096, rows
    run.data.source, run.data.text.files = "text", ("/data/corpus/*.jsonl.gz",)
    model = run.model
    model.width, model.num_layers, model.attention.num_heads = 512, 4, 4
    model.attention.qkv_bias = model.attention.out_bias = model.feedforward.bias = False
    model.feedforward.gated, model.feedforward.activation = True, "silu"
    model.norm.kind, model.position.kind, model.head.tied = "rmsnorm", "rotary", False
    model.parametrization.name = "completep"
    model.parametrization.base_width, model.parametrization.base_layers = 512, 4
    model.execution.remat = "full"
    run.optimizer.schedule.final_fraction = 0.0
    for axis, size in mesh.items():
        run.mesh[axis] = size
    run.eval.batches = 64

    if "tiny" in words:
        ladder.budgets, ladder.budget, ladder.accelerator, ladder.accelerators = (
            (2e10, 4e10, 8e10),
            0.0,
            "cpu",
            1,
        )
        ladder.head_dim, ladder.aspect_ratio, ladder.depths, ladder.ff_dim_multiple = 8, 8.0, (2, 8), 8
        ladder.width_multiple, ladder.sizes, ladder.size_span, ladder.min_steps = 1, 3, 2.0, 30
        ladder.seed_cells = 1
        run.tokenizer.kind, run.data.source = "bytes", "python"
        run.data.sequence_length, run.train.batch_size, run.eval.batches = 64, 8, 20
        run.mesh.fsdp = run.mesh.tensor = 1
        model.parametrization.base_width, model.parametrization.base_layers = 16, 2
        model.execution.remat = "none"
        ladder.learning_rate, ladder.lr_base_width = 1e-2, 16
    return ConfigDict({"ladder": ladder, "run": run})
