"""A ladder's settings, and its dial: from one depth to a model that can be built."""

import dataclasses
import math
from typing import Any, NamedTuple

from tlx.base.chips import chips
from tlx.base.errors import ConfigError, one_of

# Dense bf16 FLOP/s of one chip, from the table of chips; "cpu" is what two cores do on small models.
ACCELERATORS = {name: chip.bf16_flops for name, chip in chips().items()}


@dataclasses.dataclass(frozen=True)
class LadderConfig:
    """What `tlx scale plan` is told.

    budget: FLOPs of all runs together, or budget_hours of `accelerators` chips of the kind `accelerator` at
    the utilisation `mfu`. Budgets of single runs are `num_budgets`, each `budget_ratio` times the one before;
    or they are given in `budgets`, and the total is what they cost. Every budget gets `sizes` sizes within a
    factor `size_span` on either side of the prior optimum: tokens_per_param tokens for each parameter of the
    layers, where compute is `prior_budget`, and growing as compute ** (1 - 2 * prior_exponent) from there.
    """

    name: str = "ladder"
    budget: float = 0.0
    budget_hours: float = 0.0
    accelerator: str = "cpu"
    accelerators: int = 1
    mfu: float = 0.4
    num_budgets: int = 3
    budget_ratio: float = 4.0
    budgets: tuple[float, ...] = ()
    sizes: int = 4
    size_span: float = 4.0
    tokens_per_param: float = 20.0
    prior_budget: float = 1e20
    prior_exponent: float = 0.5
    seeds: int = 2  # runs with other seeds at `seed_cells` cells in all
    seed_cells: int = 2
    # The dial: depth = width / aspect_ratio; widths are multiples of head_dim * width_multiple.
    aspect_ratio: float = 64.0
    head_dim: int = 64
    width_multiple: int = 1  # heads are a multiple of it: what the mesh's tensor axis divides
    ff_dim_multiple: int = 128
    ff_dim_ratio: float = 4.0
    depths: tuple[int, int] = (1, 128)
    # Batch, and the peak of the learning rate:
    # learning_rate * (width / lr_base_width) ** lr_width_power * (D / lr_base_tokens) ** lr_tokens_power.
    batch_tokens: float = 0.0  # 0: the run's batch; else batch_tokens * (D / 1e9) ** batch_power
    batch_power: float = 0.5
    learning_rate: float = 4e-3
    lr_base_width: int = 128
    lr_width_power: float = -0.5
    lr_base_tokens: float = 1e9
    lr_tokens_power: float = 0.0  # where the batch stays as it is, longer runs want lower rates
    warmup_fraction: float = 0.05  # share of each run
    # Above 0 a share of each run at whose end the rate falls, and runs of a size are branches of one trunk.
    cooldown_fraction: float = 0.0
    min_steps: int = 100
    checkpoints: int = 10  # of each run

    def validate(self) -> None:
        """Raises ConfigError naming the field, its value and what is legal."""
        if self.accelerator not in ACCELERATORS:
            raise ConfigError(one_of("ladder.accelerator", self.accelerator, ACCELERATORS))
        if not (self.budget > 0 or self.budget_hours > 0 or self.budgets):
            raise ConfigError("ladder.budget, ladder.budget_hours or ladder.budgets must say what to spend")
        for name in ("budget_ratio", "size_span"):
            if getattr(self, name) <= 1:
                raise ConfigError(f"ladder.{name} = {getattr(self, name)} must be above 1")
        for name, least in (
            ("num_budgets", 1),
            ("sizes", 3),
            ("seeds", 1),
            ("head_dim", 2),
            ("accelerators", 1),
        ):
            if getattr(self, name) < least:
                raise ConfigError(f"ladder.{name} = {getattr(self, name)} must be {least} or more")
        if not 0 <= self.cooldown_fraction < 1:
            raise ConfigError(
                f"ladder.cooldown_fraction = {self.cooldown_fraction} must be at least 0 and below 1"
            )
        if self.cooldown_fraction and (self.lr_tokens_power or self.batch_tokens):
            raise ConfigError(
                f"ladder.cooldown_fraction = {self.cooldown_fraction}: branches share their trunk's rate "
                "and batch; set ladder.lr_tokens_power = 0 and ladder.batch_tokens = 0"
            )
        if not 0 < self.mfu <= 1:
            raise ConfigError(f"ladder.mfu = {self.mfu} must be above 0 and at most 1")

    @property
    def flops_per_second(self) -> float:
        """Of all accelerators together, as far as they are used."""
        return ACCELERATORS[self.accelerator] * self.accelerators * self.mfu

    @property
    def total(self) -> float:
        """FLOPs there are for all runs; infinite where single budgets are given instead."""
        if self.budget > 0:
            return self.budget
        return self.budget_hours * 3600 * self.flops_per_second if self.budget_hours > 0 else math.inf


class ModelSize(NamedTuple):
    """A rung of the dial."""

    depth: int
    width: int
    heads: int
    hidden: int


def size_at(config: LadderConfig, width: int) -> ModelSize:
    """The model of a width: depth by the aspect, heads and feed-forward by what the mesh divides."""
    first, last = config.depths
    depth = min(last, max(first, round(width / config.aspect_ratio)))
    hidden = math.ceil(config.ff_dim_ratio * width / config.ff_dim_multiple) * config.ff_dim_multiple
    return ModelSize(depth, width, width // config.head_dim, hidden)


def sizes(config: LadderConfig) -> list[ModelSize]:
    """All rungs, smallest first: every width that heads and mesh allow, up to the deepest model."""
    step = config.head_dim * config.width_multiple
    return [
        size_at(config, width) for width in range(step, int(config.aspect_ratio * config.depths[1]) + 1, step)
    ]


def with_size(run: dict[str, Any], size: ModelSize) -> dict[str, Any]:
    """A run's config (plain dict) with its model at a rung. Towers of an encoder-decoder are equally deep."""
    model = dict(run["model"])
    model["width"], model["num_layers"] = size.width, size.depth
    if model["kind"] == "encoder_decoder":
        model["num_decoder_layers"] = size.depth
    kv = model["attention"]["num_kv_heads"]
    old = model["attention"]["num_heads"]
    groups = max(1, size.heads * kv // old) if kv else 0
    while groups and size.heads % groups:
        groups -= 1
    heads = {"num_heads": size.heads, "num_kv_heads": groups, "head_dim": 0}
    model["attention"] = model["attention"] | heads
    model["feedforward"] = model["feedforward"] | {"ff_dim": size.hidden}
    return run | {"model": model}
