"""A ladder of 18 byte-level models on Python's standard library, and the 19th that they forecast.

    tlx scale plan    --config=configs/scaling/quickstart.py
    tlx scale run     --config=configs/scaling/quickstart.py --parallel=2
    tlx scale fit     --config=configs/scaling/quickstart.py
    tlx scale predict --config=configs/scaling/quickstart.py --times=4 --train
    tlx scale report  --config=configs/scaling/quickstart.py

":mlm", ":span_corruption" and ":plm" after the name do the same with another objective; ":tiny" is three
sizes in two minutes. Forecasts of ":mlm" are too high (8 to 11% at 4 times the compute): its budgets lie in the steep
first part of masked language modelling, where losses fall faster and faster. Hardware: any CPU; 2 cores take under
20 minutes in all. README.md beside this file has the figures to expect.
"""

from ml_collections import ConfigDict

from tlx.base.config import to_dict
from tlx.run import base_config
from tlx.scaling.ladder import LadderConfig


def get_config(arg: str = "") -> ConfigDict:
    """Return {"ladder", "run"} for an objective (default: clm), "tiny", or both joined by a colon."""
    words = [word for word in arg.split(":") if word]
    tiny = "tiny" in words
    (objective,) = [word for word in words if word != "tiny"] or ["clm"]
    ladder = _ladder(objective)
    ladder.name = "-".join(["quickstart", *words])
    run = _run(objective)
    if tiny:
        ladder.budgets = (2e9, 4e9, 8e9)
        ladder.sizes = 3
        ladder.size_span = 2.0
        ladder.seeds = 1
        ladder.min_steps = 30
        run.data.sequence_length = 32
        run.train.batch_size = 4
        run.eval.batches = 20
    return ConfigDict({"ladder": ladder, "run": run})


def _ladder(objective: str) -> ConfigDict:
    ladder = ConfigDict(to_dict(LadderConfig()))
    ladder.budgets = (8e10, 2e11, 5e11, 1.2e12)
    ladder.sizes = 4
    ladder.size_span = 3.0
    ladder.seeds = 2
    ladder.seed_cells = 2
    ladder.tokens_per_param = 40.0
    ladder.min_steps = 200
    if objective == "mlm":  # a sixth of the tokens are predicted: it wants many more of them
        ladder.budgets = (6e10, 1.4e11, 3.2e11, 7.5e11)
        ladder.tokens_per_param = 160.0
    # Widths of 8 to 96; three layers each, since at this size one layer more is a jump.
    ladder.aspect_ratio = 32.0
    ladder.head_dim = 8
    ladder.ff_dim_multiple = 8
    ladder.depths = (3, 3)
    # Longer runs want lower rates where all runs share one batch size.
    ladder.learning_rate = 1.8e-2
    ladder.lr_base_width = 32
    ladder.lr_width_power = -0.4
    ladder.lr_base_tokens = 6e5
    ladder.lr_tokens_power = -0.4
    ladder.accelerator = "cpu"
    ladder.mfu = 1.0
    return ladder


def _run(objective: str) -> ConfigDict:
    run = base_config(objective)
    run.tokenizer.kind = "bytes"
    run.data.sequence_length = 128
    run.train.batch_size = 4  # few tokens a batch: many small updates learn most from a small budget
    positions = {"plm": "relative_sinusoidal", "span_corruption": "relative_bias"}
    model = run.model
    model.position.kind = positions.get(objective, "rotary")
    model.position.theta = 100.0  # wavelengths of 128 positions: lower losses, and seeds differ less
    if objective == "plm":
        model.block_layout = "post"
        run.objective.mem_len = 32
    model.execution.unroll = 1
    model.attention.qkv_bias = False
    model.attention.out_bias = False
    model.feedforward.bias = False
    model.norm.kind = "rmsnorm"
    run.optimizer.name = "muon"
    run.optimizer.schedule.name = "cosine"
    run.optimizer.schedule.final_fraction = 0.0
    run.eval.batches = 400  # 200,000 bytes: noise of the evaluation would be noise of the fit
    run.log.every = 50
    run.log.tensorboard = False
    return run
