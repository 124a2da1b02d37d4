"""A ladder of 18 byte-level models on Python's standard library, and the 19th that they forecast.

    tlx scale plan    --config=configs/scaling/quickstart.py
    tlx scale run     --config=configs/scaling/quickstart.py --parallel=2
    tlx scale fit     --config=configs/scaling/quickstart.py
    tlx scale predict --config=configs/scaling/quickstart.py --times=4 --train
    tlx scale report  --config=configs/scaling/quickstart.py

":mlm", ":span_corruption" and ":plm" behind the name do the same with another objective; ":tiny" is three
sizes in two minutes. Hardware: any CPU; 2 cores take under 20 minutes in all. README.md beside this file has
the figures to expect.
"""

from ml_collections import ConfigDict

from tlx.base.config import to_dict
from tlx.run import base_config
from tlx.scaling.ladder import LadderConfig


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: an objective (clm), "tiny", or both joined by a colon."""
    words = [word for word in arg.split(":") if word]
    tiny = "tiny" in words
    (objective,) = [word for word in words if word != "tiny"] or ["clm"]

    ladder = ConfigDict(to_dict(LadderConfig()))
    ladder.name = "-".join(["quickstart", *words])
    ladder.budgets = (8e10, 2e11, 5e11, 1.2e12)
    ladder.sizes, ladder.size_span = 4, 3.0
    ladder.seeds, ladder.seed_cells = 2, 2
    ladder.tokens_per_param, ladder.min_steps = 40.0, 200
    if objective == "mlm":  # a sixth of the tokens are predicted: it wants many more of them
        ladder.budgets, ladder.tokens_per_param = (6e10, 1.4e11, 3.2e11, 7.5e11), 160.0
    # Widths of 8 to 96; three layers each, for at this size one more is a jump.
    ladder.aspect_ratio, ladder.head_dim, ladder.ff_dim_multiple, ladder.depths = 32.0, 8, 8, (3, 3)
    ladder.learning_rate, ladder.lr_base_width, ladder.lr_width_power = 1.8e-2, 32, -0.4
    ladder.lr_base_tokens, ladder.lr_tokens_power = 6e5, -0.4
    ladder.accelerator, ladder.mfu = "cpu", 1.0

    run = base_config(objective)
    run.tokenizer.kind = "bytes"
    run.data.sequence_length = 128
    run.train.batch_size = 4  # few tokens a batch: many small updates learn most from a small budget
    model = run.model
    model.position.kind = {"plm": "relative_sinusoidal", "span_corruption": "relative_bias"}.get(
        objective, "rotary"
    )
    model.position.theta = 100.0  # wavelengths of 128 places: lower losses, and seeds differ less
    if objective == "plm":
        model.block_layout, run.objective.mem_len = "post", 32
    model.execution.unroll = 1
    model.attention.qkv_bias = model.attention.out_bias = model.feedforward.bias = False
    model.norm.kind = "rmsnorm"
    run.optimizer.name = "muon"
    run.optimizer.schedule.name, run.optimizer.schedule.final_fraction = "cosine", 0.0
    run.eval.batches = 400  # 200,000 bytes: noise of the evaluation would be noise of the fit
    run.log.every = 50
    run.log.tensorboard = False

    if tiny:
        ladder.budgets = (2e9, 4e9, 8e9)
        ladder.sizes, ladder.size_span, ladder.seeds = 3, 2.0, 1
        ladder.min_steps = 30
        run.data.sequence_length, run.train.batch_size = 32, 4
        run.eval.batches = 20
    return ConfigDict({"ladder": ladder, "run": run})
