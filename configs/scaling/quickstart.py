"""A ladder of 13 byte-level models on Python's standard library, on 2 CPU cores in under 20 minutes.

    tlx scale plan    --config=configs/scaling/quickstart.py
    tlx scale run     --config=configs/scaling/quickstart.py --parallel=2
    tlx scale fit     --config=configs/scaling/quickstart.py
    tlx scale predict --config=configs/scaling/quickstart.py --times=4 --train
    tlx scale report  --config=configs/scaling/quickstart.py

":mlm", ":span_corruption" and ":plm" behind the name do the same with another objective; ":tiny" is three
sizes in two minutes. Hardware: any CPU. README.md beside this file has the figures to expect.
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
    ladder.budgets = (2e10, 6e10, 1.8e11)
    ladder.sizes, ladder.span = 4, 3.0
    ladder.seeds, ladder.seed_cells = 2, 1
    ladder.tokens_per_param, ladder.least_steps = 20.0, 50
    # Widths in steps of 8, a layer for every 32.
    ladder.aspect, ladder.head_dim, ladder.hidden_multiple, ladder.depths = 32.0, 8, 8, (1, 8)
    ladder.rate, ladder.rate_width, ladder.rate_power = 8e-3, 32, -0.5
    ladder.accelerator, ladder.mfu = "cpu", 0.4

    run = base_config(objective)
    run.tokenizer.kind = "bytes"
    run.data.sequence_length = 64
    run.train.batch_size = 4
    model = run.model
    model.position.kind = {"plm": "relative", "span_corruption": "bucketed"}.get(objective, "rotary")
    if objective == "plm":
        model.residual, run.objective.mem_len = "post", 32
    model.execution.unroll = 1
    run.optimizer.schedule.name = "cosine"
    run.eval.batches = 100
    run.log.tensorboard = False

    if tiny:
        ladder.budgets = (2e9, 4e9, 8e9)
        ladder.sizes, ladder.span, ladder.seeds = 3, 2.0, 1
        ladder.least_steps = 30
        run.data.sequence_length, run.train.batch_size = 32, 4
        run.eval.batches = 20
    return ConfigDict({"ladder": ladder, "run": run})
