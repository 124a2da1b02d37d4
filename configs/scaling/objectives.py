"""Six objectives at equal compute: the same sizes, the same text, and the same FLOPs or the same tokens.

    tlx scale run --config=configs/scaling/objectives.py:rtd --parallel=2            a ladder of the objective
    tlx train     --config=configs/scaling/objectives.py:rtd:run --config.seed=1     one run of equal FLOPs
    tlx train     --config=configs/scaling/objectives.py:rtd:run:tokens              one run of equal tokens

Objectives: clm, mlm, span_corruption, plm, rtd, bart. All ladders have the same budgets in FLOPs, counted
exactly: XLNet's second stream, ELECTRA's generator and a decoder that writes the whole text are paid for by
fewer steps. Losses are each objective's own nats, so they cannot be compared as they are: `tlx scale compare`
takes tables of one unit, such as the losses of a task that every run was fine-tuned on. README.md beside this
file has such a comparison of the single runs. ":tiny" is the same in seconds.
Hardware: any CPU; a ladder takes 15 minutes on 2 cores, a run half of one.
"""

from ml_collections import ConfigDict

from tlx.base.config import to_dict
from tlx.run import base_config
from tlx.scaling.ladder import LadderConfig
from tlx.scaling.planning import step_flops

OBJECTIVES = ("clm", "mlm", "span_corruption", "plm", "rtd", "bart")
BUDGET = 2e11  # FLOPs of a single run


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: an objective (clm), "run", "tokens", "tiny", joined by colons."""
    words = [word for word in arg.split(":") if word]
    (objective,) = [word for word in words if word not in ("run", "tokens", "tiny")] or ["clm"]
    ladder, run = _ladder(words), _run(objective)
    if "tiny" in words:
        ladder.budgets, ladder.sizes, ladder.size_span = (4e9, 8e9, 1.6e10), 3, 2.0
        ladder.seeds, ladder.min_steps, ladder.aspect_ratio = 1, 20, 16.0
        run.data.sequence_length, run.train.batch_size, run.eval.batches = 32, 4, 20
    if "run" not in words:
        return ConfigDict({"ladder": ladder, "run": run})
    return _single(run, words)


def _ladder(words: list[str]) -> ConfigDict:
    ladder = ConfigDict(to_dict(LadderConfig()))
    ladder.name = "-".join(["objectives", *words])
    ladder.budgets = (1e11, 2.5e11, 6e11, 1.5e12)
    ladder.sizes, ladder.size_span = 4, 3.0
    ladder.seeds, ladder.seed_cells = 3, 1
    ladder.tokens_per_param, ladder.min_steps = 80.0, 100
    ladder.aspect_ratio, ladder.head_dim, ladder.ff_dim_multiple, ladder.depths = 32.0, 8, 8, (3, 3)
    ladder.learning_rate, ladder.lr_base_width, ladder.lr_width_power = 1.8e-2, 32, -0.4
    ladder.lr_base_tokens, ladder.lr_tokens_power = 6e5, -0.4
    ladder.accelerator, ladder.mfu = "cpu", 1.0
    return ladder


def _run(objective: str) -> ConfigDict:
    run = base_config(objective)
    run.tokenizer.kind = "bytes"
    run.data.sequence_length, run.train.batch_size = 128, 4
    model = run.model
    relative = {"plm": "relative_sinusoidal", "span_corruption": "relative_bias", "bart": "relative_bias"}
    model.position.kind, model.position.theta = relative.get(objective, "rotary"), 100.0
    if objective == "plm":
        model.block_layout, run.objective.mem_len = "post", 32
    if objective == "rtd":
        run.objective.generator_fraction = 0.25
    model.execution.unroll = 1
    model.attention.qkv_bias = model.attention.out_bias = model.feedforward.bias = False
    model.norm.kind = "rmsnorm"
    run.optimizer.name = "muon"
    run.optimizer.schedule.name, run.optimizer.schedule.final_fraction = "cosine", 0.0
    run.eval.batches, run.log.every, run.log.tensorboard = 200, 50, False
    return run


def _single(run: ConfigDict, words: list[str]) -> ConfigDict:
    """Three layers of 48, for as many steps as the budget pays for, or as clm's budget would."""
    model = run.model
    model.num_layers, model.width, model.attention.num_heads = 3, 48, 6
    if model.kind == "encoder_decoder":
        model.num_decoder_layers = 3
    run.optimizer.learning_rate, run.optimizer.schedule.warmup = 1.5e-2, 0.05
    run.name = "-".join(["objectives", *words])
    budget, rows = 4e9 if "tiny" in words else BUDGET, run.train.batch_size
    priced = run.to_dict()
    if "tokens" in words:
        same = _run("clm")
        same.data.sequence_length = run.data.sequence_length
        priced = _single(same, ["clm", *set(words) & {"tiny"}]).to_dict()
    run.train.steps = int(budget / step_flops(priced, rows))
    run.checkpoint.every = run.eval.every = run.train.steps
    return run
