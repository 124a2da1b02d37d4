"""Six objectives at equal compute: the same sizes, the same text, and the same FLOPs or the same tokens.

    tlx scale run --config=configs/scaling/objectives.py:rtd --parallel=2            a ladder of the objective
    tlx train     --config=configs/scaling/objectives.py:rtd:run --config.seed=1     one run of equal FLOPs
    tlx train     --config=configs/scaling/objectives.py:rtd:run:tokens              one run of equal tokens

Objectives: clm, mlm, span_corruption, plm, rtd, bart. All ladders have the same budgets in FLOPs, counted
exactly: XLNet's second stream, ELECTRA's generator and a decoder that writes the whole text cost steps.
Losses are in each objective's own nats, so they cannot be compared as they are: `tlx scale compare` takes
tables of one unit, such as the losses of a task that every run was fine-tuned on. README.md beside this file
has such a comparison of the single runs. ":tiny" is the same in seconds.
Hardware: any CPU; a ladder takes 15 minutes on 2 cores, a run half of one.
"""

from ml_collections import ConfigDict

from tlx.base.config import to_dict
from tlx.run import base_config
from tlx.scaling.costs import step_flops
from tlx.scaling.ladder import LadderConfig

OBJECTIVES = ("clm", "mlm", "span_corruption", "plm", "rtd", "bart")
BUDGET = 2e11  # FLOPs of a single run
TINY_BUDGET = 4e9


def get_config(arg: str = "") -> ConfigDict:
    """Return the config for an objective (default: clm), "run", "tokens", "tiny", joined by colons.

    {"ladder", "run"}, or with "run" a run's config for tlx train.
    """
    words = [word for word in arg.split(":") if word]
    (objective,) = [word for word in words if word not in ("run", "tokens", "tiny")] or ["clm"]
    ladder = _ladder(words)
    run = _run(objective)
    if "tiny" in words:
        ladder.budgets = (4e9, 8e9, 1.6e10)
        ladder.sizes = 3
        ladder.size_span = 2.0
        ladder.seeds = 1
        ladder.min_steps = 20
        ladder.aspect_ratio = 16.0
        run.data.sequence_length = 32
        run.train.batch_size = 4
        run.eval.batches = 20
    if "run" not in words:
        return ConfigDict({"ladder": ladder, "run": run})
    return _single(run, words)


def _ladder(words: list[str]) -> ConfigDict:
    ladder = ConfigDict(to_dict(LadderConfig()))
    ladder.name = "-".join(["objectives", *words])
    ladder.budgets = (1e11, 2.5e11, 6e11, 1.5e12)
    ladder.sizes = 4
    ladder.size_span = 3.0
    ladder.seeds = 3
    ladder.seed_cells = 1
    ladder.tokens_per_param = 80.0
    ladder.min_steps = 100
    ladder.aspect_ratio = 32.0
    ladder.head_dim = 8
    ladder.ff_dim_multiple = 8
    ladder.depths = (3, 3)
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
    run.train.batch_size = 4
    positions = {
        "plm": "relative_sinusoidal",
        "span_corruption": "relative_bias",
        "bart": "relative_bias",
    }
    model = run.model
    model.position.kind = positions.get(objective, "rotary")
    model.position.theta = 100.0
    if objective == "plm":
        model.block_layout = "post"
        run.objective.mem_len = 32
    if objective == "rtd":
        run.objective.rows = "packed"  # the text of the others' rows
        run.objective.generator_fraction = 0.25
    model.execution.unroll = 1
    model.attention.qkv_bias = False
    model.attention.out_bias = False
    model.feedforward.bias = False
    model.norm.kind = "rmsnorm"
    run.optimizer.name = "muon"
    run.optimizer.schedule.name = "cosine"
    run.optimizer.schedule.final_fraction = 0.0
    run.eval.batches = 200
    run.log.every = 50
    run.log.tensorboard = False
    return run


def _single(run: ConfigDict, words: list[str]) -> ConfigDict:
    """Three layers of width 48, for as many steps as the budget pays for, or as clm's budget would."""
    model = run.model
    model.num_layers = 3
    model.width = 48
    model.attention.num_heads = 6
    if model.kind == "encoder_decoder":
        model.num_decoder_layers = 3
    run.optimizer.learning_rate = 1.5e-2
    run.optimizer.schedule.warmup = 0.05
    run.name = "-".join(["objectives", *words])
    budget = TINY_BUDGET if "tiny" in words else BUDGET
    rows = run.train.batch_size
    priced = run.to_dict()
    if "tokens" in words:
        clm = _run("clm")
        clm.data.sequence_length = run.data.sequence_length
        priced = _single(clm, ["clm", *set(words) & {"tiny"}]).to_dict()
    run.train.steps = int(budget / step_flops(priced, rows))
    run.checkpoint.every = run.train.steps
    run.eval.every = run.train.steps
    return run
