"""Settings of a ladder of runs, and its sizes: from a width to a model that can be built."""

import dataclasses
import math
from typing import Any, NamedTuple

from tlx.base.chips import chips
from tlx.base.errors import ConfigError, one_of

# Dense bfloat16 FLOP/s of one chip, from the table of chips; "cpu" is what two cores do on small models.
ACCELERATORS = {name: chip.bf16_flops for name, chip in chips().items()}


@dataclasses.dataclass(frozen=True)
class LadderConfig:
    """Config of a ladder: its budgets, sizes and learning rates.

    Every budget gets several sizes around a prior optimum, which lies where compute buys tokens_per_param
    tokens for each parameter of the layers; this ratio grows as compute ** (1 - 2 * prior_exponent).
    """

    name: str = "ladder"
    """Name of the ladder; its folder is runs/scaling/NAME."""

    budget: float = 0.0
    """FLOPs of all runs together; 0 for budget_hours or budgets instead."""

    budget_hours: float = 0.0
    """Hours of all accelerators for all runs together, where budget is 0; 0 for budgets instead."""

    accelerator: str = "cpu"
    """Kind of chip, one of ACCELERATORS."""

    accelerators: int = 1
    """Number of chips."""

    mfu: float = 0.4
    """Expected model FLOPs utilisation of the chips, above 0 and at most 1."""

    num_budgets: int = 3
    """Number of budgets of single runs, where budgets is empty."""

    budget_ratio: float = 4.0
    """Factor from one budget to the next, above 1."""

    budgets: tuple[float, ...] = ()
    """FLOPs of single runs, one entry per budget; empty to divide the total."""

    sizes: int = 4
    """Sizes per budget, 3 or more."""

    size_span: float = 4.0
    """Factor from the prior optimum to the smallest and to the largest size, above 1."""

    tokens_per_param: float = 20.0
    """Tokens per parameter of the layers at the prior optimum of prior_budget."""

    prior_budget: float = 1e20
    """FLOPs at which the prior optimum has tokens_per_param."""

    prior_exponent: float = 0.5
    """Exponent a of the prior N* ~ C^a; 0.5 for the same tokens per parameter at every budget."""

    seeds: int = 2
    """Seeds of each replicated cell, where noise is measured; 1 for none."""

    seed_cells: int = 2
    """Cells that are replicated: the middle sizes of the middle budget."""

    aspect_ratio: float = 64.0
    """Width over depth."""

    head_dim: int = 64
    """Size of an attention head."""

    width_multiple: int = 1
    """Heads are a multiple of it, as the mesh's tensor axis needs, and widths of head_dim times it."""

    ff_dim_multiple: int = 128
    """Widths of the feed-forward are multiples of it."""

    ff_dim_ratio: float = 4.0
    """Width of the feed-forward over width of the model."""

    depths: tuple[int, int] = (1, 128)
    """Smallest and largest number of layers."""

    batch_tokens: float = 0.0
    """Tokens of a batch for a run of 1e9 tokens; 0 for the run's own batch."""

    batch_power: float = 0.5
    """Power of the training tokens D with which batch_tokens grows."""

    learning_rate: float = 4e-3
    """Peak learning rate of a run of width lr_base_width and lr_base_tokens tokens."""

    lr_base_width: int = 128
    """Width at which the learning rate is the one given."""

    lr_width_power: float = -0.5
    """Power of the width with which the learning rate changes."""

    lr_base_tokens: float = 1e9
    """Training tokens at which the learning rate is the one given."""

    lr_tokens_power: float = 0.0
    """Power of the training tokens with which it changes; below 0 where all runs share one batch size."""

    rate_law: str = ""
    """Law of learning rate and batch instead of the rules above: "steplaw", "deepseek", or the JSON file of
    `tlx scale hparams --json`; empty for the rules."""

    lr_factors: tuple[float, ...] = ()
    """Multiples of the learning rate at which every cell is trained, above 0; empty for 1 alone."""

    batch_factors: tuple[float, ...] = ()
    """Multiples of the batch with which every cell is trained, above 0; empty for 1 alone."""

    weight_decays: tuple[float, ...] = ()
    """Weight decays with which every cell is trained, above 0; empty for the run's own alone."""

    warmup_fraction: float = 0.05
    """Fraction of each run in which the learning rate rises; with trunks, of each trunk's shortest run."""

    cooldown_fraction: float = 0.0
    """Fraction of each run, at its end, in which the learning rate falls: 0 to below 1.

    Above 0, runs of one size are branches of one trunk; 0 gives every run the schedule of its own config."""

    min_steps: int = 100
    """Steps that every size must reach to be used for a budget."""

    checkpoints: int = 10
    """Checkpoints of each run."""

    tasks: tuple[str, ...] = ()
    """Tasks that every run is evaluated on when it has ended: few-shot configs (configs/evaluate) as FILE[:ARG] or by
    their packaged name, and tasks of the lm-evaluation-harness as "harness:NAME". The ledger has their metrics in the
    columns TASK/METRIC."""

    task_points: int = 1
    """Checkpoints of each run, evenly spaced up to its end, that are evaluated on `tasks`, 1 or more; 1 for the end
    alone. With more, checkpoints.jsonl beside the ledger has a line for each, and the steps of a run are a
    multiple of them: it is set before the ladder is trained."""

    def validate(self) -> None:
        """Check the values. Raises ConfigError naming the field, its value and the legal ones."""
        if self.accelerator not in ACCELERATORS:
            raise ConfigError(one_of("ladder.accelerator", self.accelerator, ACCELERATORS))
        if not (self.budget > 0 or self.budget_hours > 0 or self.budgets):
            raise ConfigError("ladder.budget, ladder.budget_hours or ladder.budgets must say what to spend")
        for name in ("budget_ratio", "size_span"):
            if getattr(self, name) <= 1:
                raise ConfigError(f"ladder.{name} = {getattr(self, name)} must be above 1")
        minimums = {
            "num_budgets": 1,
            "sizes": 3,
            "seeds": 1,
            "head_dim": 2,
            "accelerators": 1,
            "task_points": 1,
        }
        for name, minimum in minimums.items():
            if getattr(self, name) < minimum:
                raise ConfigError(f"ladder.{name} = {getattr(self, name)} must be {minimum} or more")
        if self.task_points > 1 and not self.tasks:
            raise ConfigError(
                f"ladder.task_points = {self.task_points} evaluates checkpoints on ladder.tasks, which names none"
            )
        if not 0 <= self.cooldown_fraction < 1:
            raise ConfigError(
                f"ladder.cooldown_fraction = {self.cooldown_fraction} must be at least 0 and below 1"
            )
        if self.cooldown_fraction and (self.lr_tokens_power or self.batch_tokens):
            raise ConfigError(
                f"ladder.cooldown_fraction = {self.cooldown_fraction}: branches share their trunk's rate "
                "and batch; set ladder.lr_tokens_power = 0 and ladder.batch_tokens = 0"
            )
        for name in ("lr_factors", "batch_factors", "weight_decays"):
            values = getattr(self, name)
            if not all(value > 0 for value in values) or len(set(values)) < len(values):
                raise ConfigError(f"ladder.{name} = {values} must be different numbers above 0")
            if values and self.cooldown_fraction:
                raise ConfigError(
                    f"ladder.{name} = {values} with ladder.cooldown_fraction = {self.cooldown_fraction}: branches "
                    "share their trunk's settings; set ladder.cooldown_fraction = 0 to sweep them"
                )
        if not 0 < self.mfu <= 1:
            raise ConfigError(f"ladder.mfu = {self.mfu} must be above 0 and at most 1")

    @property
    def num_settings(self) -> int:
        """Number of learning rates, batches and weight decays that each cell is trained with."""
        sweeps = (self.lr_factors, self.batch_factors, self.weight_decays)
        return math.prod(max(1, len(values)) for values in sweeps)

    @property
    def flops_per_second(self) -> float:
        """FLOP/s that all accelerators achieve together."""
        return ACCELERATORS[self.accelerator] * self.accelerators * self.mfu

    @property
    def total(self) -> float:
        """FLOPs of all runs together; infinite where single budgets are given instead."""
        if self.budget > 0:
            return self.budget
        if self.budget_hours > 0:
            return self.budget_hours * 3600 * self.flops_per_second
        return math.inf


class ModelSize(NamedTuple):
    """The dims of one model of a ladder."""

    depth: int
    """Layers, of each tower."""

    width: int
    """Width of the model."""

    heads: int
    """Attention heads."""

    hidden: int
    """Width of the feed-forward."""


def size_at(config: LadderConfig, width: int) -> ModelSize:
    """Return the model of a width: depth by the aspect, heads and feed-forward by what the mesh divides."""
    first, last = config.depths
    depth = min(last, max(first, round(width / config.aspect_ratio)))
    return ModelSize(depth, width, width // config.head_dim, feedforward_width(config, width))


def feedforward_width(config: LadderConfig, width: int) -> int:
    """Return the width of the feed-forward for a width of the model."""
    return math.ceil(config.ff_dim_ratio * width / config.ff_dim_multiple) * config.ff_dim_multiple


def sizes(config: LadderConfig) -> list[ModelSize]:
    """Return all sizes, smallest first: every width that heads and mesh allow, up to the deepest model."""
    step = config.head_dim * config.width_multiple
    widest = int(config.aspect_ratio * config.depths[1])
    return [size_at(config, width) for width in range(step, widest + 1, step)]


def with_size(run: dict[str, Any], size: ModelSize) -> dict[str, Any]:
    """Return a run's config (plain dict) with a model of the size.

    Both towers of an encoder-decoder get its depth. The number of key/value heads keeps its ratio to that of
    the query heads, rounded down to a divisor of them.
    """
    model = dict(run["model"])
    model["width"] = size.width
    model["num_layers"] = size.depth
    if model["kind"] == "encoder_decoder":
        model["num_decoder_layers"] = size.depth
        # Both towers have the heads and the feed-forward width of the size.
        model |= {"num_decoder_heads": 0, "decoder_ff_dim": 0}
    kv_heads = model["attention"]["num_kv_heads"]
    old_heads = model["attention"]["num_heads"]
    groups = max(1, size.heads * kv_heads // old_heads) if kv_heads else 0
    while groups and size.heads % groups:
        groups -= 1
    heads = {"num_heads": size.heads, "num_kv_heads": groups, "head_dim": 0}
    model["attention"] = model["attention"] | heads
    model["feedforward"] = model["feedforward"] | {"ff_dim": size.hidden}
    return run | {"model": model}
